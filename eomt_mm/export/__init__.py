"""The network as a file for other runtimes: ONNX, OpenVINO and torch.export; see docs/deployment.md."""

from typing import Any

from eomt_mm.public import load, names_of

PUBLIC = {
    'formats': ('FORMATS',),
    'metadata': ('FORMAT', 'KEY'),
    'network': ('ExportNetwork',),
    'onnx': ('run_onnx', 'save_onnx'),
    'openvino': ('run_openvino', 'save_openvino'),
    'program': ('export_program', 'run_program', 'save_program'),
}
__all__ = names_of(PUBLIC)


def __getattr__(name: str) -> Any:
    return load(__name__, PUBLIC, name)
