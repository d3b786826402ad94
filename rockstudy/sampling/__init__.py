"""Rollouts, who writes them, and their grading."""
