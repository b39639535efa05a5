"""Calibration images for quantisation: read and resized as the inferencer does, and cut or padded to the input."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, MODELS, DefaultScope

from eomt_mm.apis.config import load_config
from eomt_mm.apis.exported import pixels_of
from eomt_mm.apis.inferencer_parts import test_pipeline
from eomt_mm.apis.inputs import find_sources

SAMPLES = 100


class CalibrationImages:
    """Inputs of a network, made from images; each iteration reads them again, so that few are in memory.

    Args:
        cfg: config of the model, which states how images are resized; for another input size, load it with another
            ``img_size``.
        source: folder of images (or another input of :func:`~eomt_mm.apis.inputs.find_sources`), or a config (.py),
            whose training images are read, without their annotations. The file of ``cfg`` stands for ``cfg``.
        samples: number of images, evenly spaced over all of them; all, if there are fewer.

    Attributes:
        paths: of the images.

    Raises:
        FileNotFoundError: there is no such folder or config, or it has no images.
        ValueError: ``samples`` is below 1, or the config has no training data.
    """

    def __init__(self, cfg: Config, source: str | Path, samples: int = SAMPLES) -> None:
        if samples < 1:
            raise ValueError(f'samples={samples}: at least 1')
        is_own = cfg.filename is not None and Path(cfg.filename) == Path(source)  # with its overrides
        paths = training_images(cfg, source) if is_own else list_images(source)
        places = np.linspace(0, len(paths) - 1, min(samples, len(paths))).round().astype(int)
        self.paths = [paths[place] for place in places]
        self._load, self._pipeline = test_pipeline(cfg)
        with DefaultScope.overwrite_default_scope(cfg.get('default_scope')):
            self._preprocessor: Any = MODELS.build(cfg.model.data_preprocessor)

    def __len__(self) -> int:
        """Return the number of images, of which each has one or more inputs."""
        return len(self.paths)

    def __iter__(self) -> Iterator[np.ndarray]:
        """Yield the inputs of one image after the other, uint8 (1, 3, H, W), RGB."""
        for path in self.paths:
            item = self._pipeline(self._load(dict(img_path=path)))
            with torch.no_grad():
                data = self._preprocessor(dict(inputs=[item['inputs']], data_samples=[item['data_samples']]))
            for one in data['inputs'].split(1):
                yield pixels_of(one, self._preprocessor.mean, self._preprocessor.std)


def list_images(source: str | Path) -> list[str]:
    """List the image files of a folder or of the training data of a config (.py)."""
    if Path(source).suffix == '.py':
        return training_images(load_config(source), source)
    return [str(found.path) for found in find_sources(str(source))]


def training_images(cfg: Config, name: str | Path) -> list[str]:
    """List the image files of a config's training data."""
    if not cfg.get('train_dataloader'):
        raise ValueError(f'config {name} has no train_dataloader: give a folder of images')
    dataset = cfg.train_dataloader.dataset
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope')):
        built: Any = DATASETS.build({**dataset, 'pipeline': []})
    return [built.get_data_info(index)['img_path'] for index in range(len(built))]
