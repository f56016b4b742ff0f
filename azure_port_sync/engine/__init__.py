"""One run, without Dagster: observe, decide, deliver, verify. `run` orders the steps."""
