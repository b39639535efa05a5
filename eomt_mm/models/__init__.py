"""The network and its training and inference rules in plain PyTorch, and the adapters to mmseg and mmdet."""
