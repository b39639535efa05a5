"""Training of models that do not fit on one device: sharded weights, and checkpoints in folders."""
