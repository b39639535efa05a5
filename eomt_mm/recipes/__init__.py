"""Recipes: the config files, found by name and read without any host, and what follows from their values."""
