"""Metadata of an exported file: one JSON text with everything that a runtime must know besides the graph."""

import json
from typing import Any

# Of ONNX' metadata_props, of OpenVINO's rt_info, and of the extra file in a torch.export program.
KEY = 'eomt_mm.json'
FORMAT = 2  # raised when a reader of older files would misread newer ones
INPUT = 'images'


def as_text(metadata: dict[str, Any]) -> str:
    """The metadata as the JSON text that is stored."""
    return json.dumps(metadata, ensure_ascii=False)
