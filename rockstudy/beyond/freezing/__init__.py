"""What to leave out of the loss: rocks, as much loss, or other positions (notebook 09)."""
