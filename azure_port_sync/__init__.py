"""Keeps a Port software catalog equal to what exists in Azure."""

__version__ = "0.1.0"
