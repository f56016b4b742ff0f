"""Figures, not tests: each program prints what it measured and the size of its input."""
