"""Comparison of an exported file with PyTorch, before the file gets its name."""

from collections.abc import Iterable
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from eomt_mm.export.network import ExportNetwork
from eomt_mm.export.postprocess import Logits
from eomt_mm.export.sessions import open_session

# Largest difference of float32 logits to PyTorch, relative to the largest logit, that a file may have.
TOLERANCE = 1e-4


def check_results(
    network: ExportNetwork, path: Path, dynamic_batch: bool, calibration: Iterable[np.ndarray] | None = None
) -> dict[str, float]:
    """Compare the results of a file with those of the network on random images or, of a quantised file, on its own.

    Args:
        network: that the file was made from.
        path: of the file, see :func:`~eomt_mm.export.sessions.open_session`.
        dynamic_batch: whether the file takes several images.
        calibration: images uint8 (1, 3, H, W) that the file was quantised with; None: it was not.

    Returns:
        for each output, the largest difference relative to the largest value; for labels and maps, the fraction of
        values that differ.

    Raises:
        ValueError: float32 logits differ by more than ``TOLERANCE`` (those of quantised files may), or logits of the
            network or results of the file are NaN or infinite.
    """
    num_images = 2 if dynamic_batch else 1
    images = network.example(num_images)
    if calibration is not None:
        images = torch.from_numpy(np.concatenate(list(islice(cycle(calibration), num_images))))
    results = open_session(path, torch.get_num_threads()).run(images.numpy())
    with torch.no_grad():
        logits = network.logits(images)
        expected = network.postprocess(*logits, network.size)
    check_finite(path, 'PyTorch', logits)
    check_finite(path, 'the runtime', map(torch.from_numpy, results.values()))
    found = {}
    for (name, values), ours in zip(results.items(), expected, strict=True):
        theirs = torch.from_numpy(values)
        if ours.is_floating_point():
            found[name] = ((theirs - ours).abs().max() / ours.abs().max()).item()
        else:
            found[name] = (theirs != ours).float().mean().item()
    exact = calibration is None and isinstance(network.postprocess, Logits) and network.dtype == torch.float32
    if exact and not all(value <= TOLERANCE for value in found.values()):
        raise ValueError(
            f'the {path.suffix} file differs from PyTorch by {found}, relative to the largest value; allowed is '
            f'{TOLERANCE}. No file was written: try another version of the runtime'
        )
    return found


def check_finite(path: str | Path, name: str, values: Iterable[Tensor]) -> None:
    """Refuse NaN and infinite values, which label maps would hide.

    Args:
        path: of the file that is not written then.
        name: of what computed the values.
        values: to check.

    Raises:
        ValueError: there are some.
    """
    if not all(one.isfinite().all() for one in values):
        raise ValueError(
            f'{Path(path).name} is not written: in {name}, results are NaN or infinite. Check the weights; try without '
            '--half'
        )
