"""Tests, through the public doors of the project."""
