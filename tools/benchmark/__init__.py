"""Side-by-side comparisons of time, memory and operations in one run."""

import eomt_mm  # noqa: F401  before the hosts: its error names the missing ones
