"""The network as one file for other runtimes: ONNX and torch.export; see docs/export.md."""

from typing import Any

from eomt_mm.public import load, names_of

PUBLIC = {
    'metadata': ('FORMAT', 'KEY'),
    'network': ('ExportNetwork',),
    'onnx': ('run_onnx', 'save_onnx'),
    'program': ('export_program', 'run_program', 'save_program'),
}
__all__ = names_of(PUBLIC)


def __getattr__(name: str) -> Any:
    return load(__name__, PUBLIC, name)
