"""The network as a file for other runtimes: ONNX, OpenVINO and torch.export; see docs/deployment.md."""

import os
import sys
from types import ModuleType
from typing import Any

from eomt_mm.public import load, names_of

# By default, both runtimes keep an id of the machine and report their use to web services.
os.environ.setdefault('ORT_DISABLE_TELEMETRY', '1')
sys.modules.setdefault('openvino_telemetry', ModuleType('openvino_telemetry'))  # without it, OpenVINO uses a stand-in

PUBLIC = {
    'formats': ('FORMATS',),
    'metadata': ('FORMAT', 'KEY'),
    'network': ('ExportNetwork',),
    'onnx': ('save_onnx',),
    'openvino': ('save_openvino',),
    'program': ('export_program', 'run_program', 'save_program'),
    'sessions': ('Session', 'open_session'),
}
__all__ = names_of(PUBLIC)


def __getattr__(name: str) -> Any:
    return load(__name__, PUBLIC, name)
