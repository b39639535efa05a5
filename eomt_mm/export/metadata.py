"""Where an exported file keeps what a runtime must know beside the graph: one JSON text."""

import json
from typing import Any

# Of ONNX' metadata_props, and of the extra file beside a torch.export program.
KEY = 'eomt_mm.json'
FORMAT = 1  # raised when a reader of older files would misread newer ones
INPUT = 'images'


def as_text(metadata: dict[str, Any]) -> str:
    """As it is stored."""
    return json.dumps(metadata, ensure_ascii=False)
