"""Benchmarks: each program prints its measurements and the size of its input."""
