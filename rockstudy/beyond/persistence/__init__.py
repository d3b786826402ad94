"""Why rocks persist: the optimiser, cancelled gradients, capacity or noise (notebook 08)."""
