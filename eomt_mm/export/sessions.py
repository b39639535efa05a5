"""Open exported files on the CPU, whatever their format; each runtime is imported only for its own files."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from eomt_mm.export.metadata import INPUT, KEY, from_text

Array = np.ndarray
Graph = Callable[[Array], Iterable[Array]]  # from images uint8 (N, 3, H, W) to outputs in order
Opened = tuple[str, Graph, list[int | None], list[set[str]]]  # metadata, graph, input's shape, names of each output


@dataclass(frozen=True)
class Session:
    """An exported file that is ready to run.

    Attributes:
        metadata: as :func:`~eomt_mm.apis.exporting.metadata_of` describes it.
        graph: the network.
    """

    metadata: dict[str, Any]
    graph: Graph

    def run(self, images: Array) -> dict[str, Array]:
        """Outputs by name for images uint8 (N, 3, H, W)."""
        return dict(zip(self.metadata['outputs'], self.graph(images), strict=True))


def is_exported(path: str | Path) -> bool:
    """Whether a path names a file of a format that this module opens."""
    return Path(path).suffix in OPENERS


def open_session(path: str | Path, threads: int = 0) -> Session:
    """Open a file of tools/export.py; networks compute in float32, except for what the file holds in fewer bits.

    Args:
        path: .onnx or .xml file; its weights (.data, .bin), where there are any, are beside it.
        threads: number of threads; 0: the runtime's choice.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file has another format, is damaged, or has no metadata of this version.
        ImportError: the runtime is missing.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f'exported file {path} does not exist: tools/export.py writes one')
    if not is_exported(path):
        raise ValueError(f'exported file {path}: give one of {", ".join(OPENERS)}')
    try:
        text, graph, shape, outputs = OPENERS[path.suffix](path, threads)
        return Session(from_text(text, shape[2:], outputs), graph)
    except ImportError:
        raise
    except Exception as error:  # runtimes' errors have no common class, and many lines
        raise ValueError(f'{path} cannot be read ({" ".join(str(error).split())}): export it again') from error


def _open_onnx(path: Path, threads: int) -> Opened:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # without hints about float16 on a CPU
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, providers=['CPUExecutionProvider'])
    text = session.get_modelmeta().custom_metadata_map.get(KEY, '')
    outputs = [{output.name} for output in session.get_outputs()]
    shape = [side if isinstance(side, int) else None for side in session.get_inputs()[0].shape]
    return text, lambda images: session.run(None, {INPUT: images}), shape, outputs


def _open_openvino(path: Path, threads: int) -> Opened:
    import openvino

    core = openvino.Core()
    model = core.read_model(path)
    text = model.get_rt_info([KEY]).astype(str) if model.has_rt_info([KEY]) else ''
    settings: dict[str, Any] = dict(INFERENCE_PRECISION_HINT='f32', INFERENCE_NUM_THREADS=threads)
    compiled = core.compile_model(model, 'CPU', settings)
    shape = [side.get_length() if side.is_static else None for side in compiled.inputs[0].partial_shape]
    outputs = [output.get_names() for output in compiled.outputs]  # an output can have several
    return text, lambda images: compiled({INPUT: images}).values(), shape, outputs


OPENERS: dict[str, Callable[[Path, int], Opened]] = {'.onnx': _open_onnx, '.xml': _open_openvino}
