"""Metrics of video segmentation: AP of tracks, VPQ, STQ, video consistency."""
