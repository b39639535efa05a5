"""Comparison of an exported file with PyTorch, before the file gets its name."""

from collections.abc import Callable, Iterable, Sequence
from itertools import cycle, islice

import numpy as np
import torch
from torch import Tensor

from eomt_mm.export.network import ExportNetwork
from eomt_mm.export.postprocess import Logits

# Largest difference of float32 logits to PyTorch, relative to the largest logit, that a file may have.
TOLERANCE = 1e-4
Run = Callable[[Tensor], Sequence[Tensor]]  # outputs of a file for images uint8 (N, 3, H, W)


def check_results(
    network: ExportNetwork,
    run: Run,
    num_images: int,
    runtime: str,
    calibration: Iterable[np.ndarray] | None = None,
) -> dict[str, float]:
    """Compare the results of a file with those of the network on random images or, of a quantised file, on its own.

    Args:
        network: that the file was made from.
        run: runs the file.
        num_images: to run at once.
        runtime: its name, for the error.
        calibration: images uint8 (1, 3, H, W) that the file was quantised with; None: it was not.

    Returns:
        for each output, the largest difference relative to the largest value; for labels and maps, the fraction of
        values that differ.

    Raises:
        ValueError: float32 logits differ by more than ``TOLERANCE``, or are NaN; those of quantised files may differ.
    """
    images = network.example(num_images)
    if calibration is not None:
        images = torch.from_numpy(np.concatenate(list(islice(cycle(calibration), num_images))))
    with torch.no_grad():
        expected = network(images)
    found = {}
    for name, ours, theirs in zip(network.postprocess.outputs, expected, run(images), strict=True):
        if ours.is_floating_point():
            found[name] = ((theirs - ours).abs().max() / ours.abs().max()).item()
        else:
            found[name] = (theirs != ours).float().mean().item()
    exact = calibration is None and isinstance(network.postprocess, Logits) and network.dtype == torch.float32
    if exact and not all(value <= TOLERANCE for value in found.values()):
        raise ValueError(
            f'{runtime} differs from PyTorch by {found}, relative to the largest value; allowed is {TOLERANCE}. No '
            f'file was written: are there NaN or infinite weights? Try another version of {runtime}'
        )
    return found
