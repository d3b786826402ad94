"""Several processes, and the devices of models."""
