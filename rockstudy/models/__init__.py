"""Teacher and student: where they come from, and what is read from them."""
