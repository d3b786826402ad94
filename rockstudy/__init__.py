"""Which tokens does on-policy distillation fail to learn, and does it matter."""

__version__ = "0.1.0"
