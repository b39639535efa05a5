"""Comparisons side by side, in one run: time, memory, operations."""
