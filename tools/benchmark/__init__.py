"""Comparisons side by side, in one run: time, memory, operations."""

import eomt_mm  # noqa: F401  before the hosts: its error names the missing ones
