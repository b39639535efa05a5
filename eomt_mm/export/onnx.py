"""Export to ONNX with torch's exporter: the file contains the metadata, and is checked before it gets its name."""

import os
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from eomt_mm.export.metadata import INPUT, KEY, as_text
from eomt_mm.export.network import ExportNetwork
from eomt_mm.export.postprocess import Logits
from eomt_mm.fileio.writing import written_aside

# Has GELU as one operator; onnxruntime from 1.17 on.
OPSET = 20
PACKAGES = ('onnx', 'onnxscript', 'onnxruntime')
# Largest difference of float32 logits to PyTorch, relative to the largest logit, that a file may have.
TOLERANCE = 1e-4


def check_packages() -> None:
    """Raises ImportError, naming the extra, if a package is missing."""
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise ImportError(f"ONNX needs {', '.join(missing)}, of the extra [export]: pip install -e '.[export]'")


def save_onnx(
    program: ExportedProgram, network: ExportNetwork, path: str | Path, metadata: dict[str, Any]
) -> dict[str, float]:
    """Write an ONNX file if onnx' checker accepts it and onnxruntime gives the same results as PyTorch.

    Weights beyond 1.5 GB go to ``<path>.data`` beside it, because an ONNX file is limited to 2 GB; move both together.

    Args:
        program: what :func:`~eomt_mm.export.program.export_program` made.
        network: the network that it was made from.
        path: of the file, which is replaced.
        metadata: see :func:`~eomt_mm.apis.exporting.metadata_of`.

    Returns:
        see :func:`differences`.

    Raises:
        ImportError: a package is missing.
        ValueError: float32 logits differ by more than ``TOLERANCE``.
    """
    check_packages()
    import onnx

    outputs = network.postprocess.outputs
    shapes = ({0: 'batch'},) if metadata['dynamic_batch'] else None
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter('ignore')  # of the exporter, about itself
        converted = torch.onnx.export(
            program, (network.example(1),), dynamo=True, opset_version=OPSET, dynamic_shapes=shapes, verbose=False,
            input_names=[INPUT], output_names=list(outputs),
        )  # fmt: skip
    assert converted is not None
    converted.model.metadata_props[KEY] = as_text(dict(metadata, opset=OPSET))
    with written_aside(path) as aside:
        converted.save(aside)
        onnx.checker.check_model(aside, full_check=True)
        found = differences(network, aside, 2 if metadata['dynamic_batch'] else 1)
        if isinstance(network.postprocess, Logits) and network.dtype == torch.float32:
            check_differences(found)
        data = aside.with_name(f'{aside.name}.data')
        if data.exists():
            os.replace(data, Path(path).with_name(data.name))
    return found


def run_onnx(path: str | Path, images: torch.Tensor) -> list[torch.Tensor]:
    """Outputs of a file on the CPU for images uint8 (N, 3, H, W)."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # without hints about float16 on a CPU
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=['CPUExecutionProvider'])
    return [torch.from_numpy(output) for output in session.run(None, {INPUT: images.numpy()})]


def differences(network: ExportNetwork, path: str | Path, num_images: int) -> dict[str, float]:
    """Differences between onnxruntime and PyTorch on random images.

    Returns:
        for each output, the largest difference relative to the largest value; for labels and maps, the fraction of
        values that differ.
    """
    images = network.example(num_images)
    with torch.no_grad():
        expected = network(images)
    found = {}
    for name, ours, theirs in zip(network.postprocess.outputs, expected, run_onnx(path, images), strict=True):
        if ours.is_floating_point():
            found[name] = ((theirs - ours).abs().max() / ours.abs().max()).item()
        else:
            found[name] = (theirs != ours).float().mean().item()
    return found


def check_differences(found: dict[str, float]) -> None:
    """Raises ValueError if a difference is above ``TOLERANCE`` or NaN."""
    if not all(value <= TOLERANCE for value in found.values()):
        raise ValueError(
            f'onnxruntime differs from PyTorch by {found}, relative to the largest value; allowed is {TOLERANCE}. No '
            f'file was written: are there NaN or infinite weights? Try another version of onnxruntime'
        )
