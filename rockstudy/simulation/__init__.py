"""Training steps and statistics of large models, simulated without a device or weights."""
