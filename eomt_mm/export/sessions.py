"""Open exported files on the CPU, whatever their format; each runtime is imported only for its own files."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from eomt_mm.export.metadata import INPUT, KEY

Array = np.ndarray
Run = Callable[[Array], dict[str, Array]]  # from images uint8 (N, 3, H, W) to outputs by name


@dataclass(frozen=True)
class Session:
    """An exported file that is ready to run.

    Attributes:
        metadata: as :func:`~eomt_mm.apis.exporting.metadata_of` describes it.
        run: runs the network.
    """

    metadata: dict[str, Any]
    run: Run


def is_exported(path: str | Path) -> bool:
    """Whether a path names a file of a format that this module opens."""
    return Path(path).suffix in OPENERS


def open_session(path: str | Path, threads: int = 0) -> Session:
    """Open a file of tools/export.py.

    Args:
        path: .onnx or .xml file; its weights (.data, .bin), where there are any, are beside it.
        threads: number of threads; 0: the runtime's choice.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file has another format, or no metadata.
        ImportError: the runtime is missing.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f'exported file {path} does not exist: tools/export.py writes one')
    if not is_exported(path):
        raise ValueError(f'exported file {path}: give one of {", ".join(OPENERS)}')
    text, run = OPENERS[path.suffix](path, threads)
    if not text:
        raise ValueError(f'{path} has no metadata {KEY}: give a file that tools/export.py wrote')
    return Session(json.loads(text), run)


def _open_onnx(path: Path, threads: int) -> tuple[str, Run]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # without hints about float16 on a CPU
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, providers=['CPUExecutionProvider'])
    names = [output.name for output in session.get_outputs()]

    def run(images: Array) -> dict[str, Array]:
        return dict(zip(names, session.run(None, {INPUT: images}), strict=True))

    return session.get_modelmeta().custom_metadata_map.get(KEY, ''), run


def _open_openvino(path: Path, threads: int) -> tuple[str, Run]:
    import openvino

    core = openvino.Core()
    model = core.read_model(path)
    text = model.get_rt_info([KEY]).astype(str) if model.has_rt_info([KEY]) else ''
    settings: dict[str, Any] = dict(INFERENCE_PRECISION_HINT='f32', INFERENCE_NUM_THREADS=threads)
    compiled = core.compile_model(model, 'CPU', settings)
    names = [output.any_name for output in compiled.outputs]

    def run(images: Array) -> dict[str, Array]:
        return dict(zip(names, compiled({INPUT: images}).values(), strict=True))

    return text, run


OPENERS: dict[str, Callable[[Path, int], tuple[str, Run]]] = {'.onnx': _open_onnx, '.xml': _open_openvino}
