"""The network as one file for other runtimes: ONNX and torch.export; see docs/export.md."""
