"""Generated data sets for tests and demos."""
