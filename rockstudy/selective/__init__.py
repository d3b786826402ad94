"""Training without the loss at some positions (notebook 07)."""
