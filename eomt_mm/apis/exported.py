"""Evaluate exported files with the data, post-processing and metrics of a config: only the network is the file's."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from eomt_mm.apis.exporting import head_of, task_of
from eomt_mm.checkpoints.class_names import difference
from eomt_mm.core.network import Predictions
from eomt_mm.export.sessions import open_session


class ExportedNetwork:
    """The network of an exported file, in place of a model's ``extract_feat``.

    Args:
        path: see :func:`~eomt_mm.export.sessions.open_session`.
        model: that :func:`~eomt_mm.apis.init_model` or a runner built from the config of the file.
        classes: names of the data's classes; empty: unknown.
        threads: see :func:`~eomt_mm.export.sessions.open_session`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: see :func:`~eomt_mm.export.sessions.open_session` and :func:`check_fit`.
    """

    def __init__(self, path: str | Path, model: Any, classes: Sequence[str] = (), threads: int = 0) -> None:
        session = open_session(path, threads)
        check_fit(path, session.metadata, model, classes)
        self._run = session.run
        self._at_once = session.metadata['dynamic_batch']
        self._mean, self._std = model.data_preprocessor.mean, model.data_preprocessor.std

    def __call__(self, inputs: Tensor) -> Predictions:
        """Predict from normalised inputs (N, 3, H, W); the file normalises, so they are turned back into pixels."""
        images = pixels_of(inputs, self._mean, self._std)
        found = [self._run(part) for part in ([images] if self._at_once else np.split(images, len(images)))]
        class_logits, mask_logits = (
            torch.from_numpy(np.concatenate([outputs[name] for outputs in found])).to(inputs.device)
            for name in ('class_logits', 'mask_logits')
        )
        return [class_logits], [mask_logits]


def pixels_of(inputs: Tensor, mean: Tensor, std: Tensor) -> np.ndarray:
    """Invert the normalisation of a preprocessor: float (N, 3, H, W) to uint8, exactly."""
    pixels: np.ndarray = (inputs * std + mean).round().clamp(0, 255).byte().cpu().numpy()
    return pixels


def check_fit(path: str | Path, metadata: dict[str, Any], model: Any, classes: Sequence[str] = ()) -> None:
    """Check that a file can replace a model's network.

    Raises:
        ValueError: it cannot; the message states what differs, on both sides.
    """
    if metadata['postprocess_in_graph']:
        raise ValueError(f'{path} outputs results of its input, not logits: export it without --with-postprocess')
    head = head_of(model)
    facts = dict(
        task=(metadata['task'], task_of(head)),
        size=(tuple(metadata['input']['size']), tuple(model.data_preprocessor.img_size)),
        number_of_classes=(len(metadata['classes']), head.num_classes),
    )
    for name, (theirs, ours) in facts.items():
        if theirs != ours:
            raise ValueError(
                f'{path} was exported with {name.replace("_", " ")} {theirs}, and the config has {ours}: give the '
                f'config that it was exported with'
            )
    other = difference(metadata['classes'], classes) if classes else None
    if other:
        raise ValueError(f'{path} is for other classes than the data: {other}')
