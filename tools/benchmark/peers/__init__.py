"""Sides of the peers: one module per peer, with its side of each subject in which it takes part."""
