"""The core: what a row is, which window to read, what is in scope, what an entity is called, what has to happen.

Pure functions over values and Arrow-backed frames. Nothing here does I/O, knows Dagster, or imports another room
of the project, so that every decision can be tested by calling it.
"""
