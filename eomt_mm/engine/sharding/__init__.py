"""Training of models that do not fit on one device: weights in parts, checkpoints in folders."""
