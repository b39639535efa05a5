"""Metrics that the hosts lack."""
