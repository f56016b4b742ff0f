"""All Dagster objects, thin: each calls the engine and shows what it found."""
