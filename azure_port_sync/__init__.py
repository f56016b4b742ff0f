"""Keeps a Port software catalog equal to what exists in Azure."""
