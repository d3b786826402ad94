"""Notebook 10: does the teacher help where the student disagrees with it? A local intervention."""
