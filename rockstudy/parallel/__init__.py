"""Several processes, and where models lie."""
