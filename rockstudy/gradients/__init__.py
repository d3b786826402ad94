"""Gradients of token types, and whether their losses persist (notebook 04)."""
