"""torch.export: the network as a program that PyTorch runs without this package."""

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram

from eomt_mm.export.checks import check_finite
from eomt_mm.export.metadata import KEY, as_text
from eomt_mm.export.network import ExportNetwork
from eomt_mm.fileio.writing import written_aside

MAX_BATCH = 2**31 - 1  # torch 2.7 refuses a size without an upper limit, as a guard excludes 2**63 - 1


def export_program(network: ExportNetwork, dynamic_batch: bool = False) -> ExportedProgram:
    """Trace the network into a program that needs no Python code of this package.

    Args:
        network: to trace.
        dynamic_batch: let the program take any number of images; otherwise it takes one.
    """
    shapes = ({0: Dim('batch', min=1, max=MAX_BATCH)},) if dynamic_batch else None
    example = network.example(2 if dynamic_batch else 1)  # torch treats a dynamic size of 1 as a constant
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter('ignore')  # of torch, about its own internals
        return torch.export.export(network, (example,), dynamic_shapes=shapes, strict=False)


def save_program(
    program: ExportedProgram, network: ExportNetwork, path: str | Path, metadata: dict[str, Any]
) -> dict[str, float]:
    """Write a ``.pt2`` file, whole or not at all; the metadata is its extra file ``eomt_mm.json``.

    Returns:
        {}: PyTorch itself traced the program; it is not compared.

    Raises:
        ValueError: the network's logits are NaN or infinite.
    """
    with torch.no_grad():
        check_finite(path, 'PyTorch', network.logits(network.example(1)))
    with written_aside(path) as aside:
        torch.export.save(program, aside, extra_files={KEY: as_text(metadata)})
    return {}


def run_program(path: str | Path, images: Tensor) -> tuple[Tensor, ...]:
    """Outputs of a saved program for images uint8 (N, 3, H, W)."""
    with torch.no_grad():
        return torch.export.load(path).module()(images)
