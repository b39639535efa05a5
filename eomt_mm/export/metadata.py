"""Metadata of an exported file: one JSON text with everything that a runtime must know besides the graph."""

import json
from collections.abc import Collection, Sequence
from typing import Any

# Of ONNX' metadata_props, of OpenVINO's rt_info, and of the extra file in a torch.export program.
KEY = 'eomt_mm.json'
FORMAT = 2  # raised when a reader of older files would misread newer ones
INPUT = 'images'
MAX_SIDE = 2**13  # pixels of an input: far above any ViT's
# Types of what is read when a file is opened; 'input' and 'outputs' are compared with the graph.
KINDS = dict(task=str, classes=list, dynamic_batch=bool, half=bool, postprocess_in_graph=bool)


def as_text(metadata: dict[str, Any]) -> str:
    """The metadata as the JSON text that is stored."""
    return json.dumps(metadata, ensure_ascii=False)


def from_text(text: str, size: Sequence[int | None], outputs: Sequence[Collection[str]]) -> dict[str, Any]:
    """Read the metadata of a graph, and check what its users read.

    Args:
        text: as stored; '' if there is none.
        size: (height, width) of the graph's input, None where the graph takes any.
        outputs: names of each of the graph's outputs.

    Raises:
        ValueError: the text is no JSON, of another format, incomplete, or that of another graph.
    """
    try:
        read = json.loads(text or '{}')
        stated = read.get('format') if isinstance(read, dict) else None
    except (ValueError, RecursionError) as error:
        raise ValueError(f'its metadata cannot be read ({error})') from error
    if stated != FORMAT:
        raise ValueError(f'it has metadata of format {stated}, read is {FORMAT}')
    metadata: dict[str, Any] = read
    wrong = [key for key, kind in KINDS.items() if type(metadata.get(key)) is not kind]
    wrong += ['classes'] if not all(isinstance(name, str) for name in metadata.get('classes') or ()) else []
    wrong += ['input'] if not _is_size_of(metadata.get('input'), size) else []
    wrong += ['outputs'] if not _are_names_of(metadata.get('outputs'), outputs) else []
    if wrong:
        raise ValueError(f'its metadata do not fit its graph: {", ".join(wrong)}')
    return metadata


def _are_names_of(stated: Any, outputs: Sequence[Collection[str]]) -> bool:
    return (
        isinstance(stated, dict)
        and len(stated) == len(outputs)
        and all(name in names for name, names in zip(stated, outputs, strict=True))
    )


def _is_size_of(stated: Any, size: Sequence[int | None]) -> bool:
    sides = stated.get('size') if isinstance(stated, dict) else None
    return (
        isinstance(sides, list)
        and len(sides) == len(size)
        and all(type(side) is int and 0 < side <= MAX_SIDE for side in sides)
        and all(fixed in (side, None) for side, fixed in zip(sides, size, strict=True))
    )
