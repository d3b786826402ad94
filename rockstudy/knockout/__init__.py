"""What a student answers when it may not write a token (notebooks 05 and 06)."""
