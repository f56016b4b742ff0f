"""Values and rules, pure: they know neither Dagster nor HTTP nor a database."""
