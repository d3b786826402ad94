"""Two stages of distillation (notebooks 00 and 01)."""
