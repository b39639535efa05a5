"""Calibration images for quantisation: read and resized as the inferencer does, and cut or padded to the input."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, MODELS, DefaultScope

from eomt_mm.apis.config import find_config, load_config
from eomt_mm.apis.exported import pixels_of
from eomt_mm.apis.inferencer_parts import test_pipeline
from eomt_mm.apis.inputs import Video, find_sources
from eomt_mm.recipes.classes import unwrapped

SAMPLES = 100


class CalibrationImages:
    """Inputs of a network, made from images; each iteration reads them again, so that few are in memory.

    Args:
        cfg: config of the model, which states how images are resized; for another input size, load it with another
            ``img_size``.
        source: see :func:`list_images`; the file of ``cfg`` stands for ``cfg``, with its overrides.
        samples: number of images, evenly spaced over all of them; all, if there are fewer.

    Attributes:
        paths: of the images.

    Raises:
        FileNotFoundError: there is no such folder or config, or it has no images.
        ValueError: ``samples`` is below 1, the config has no training data, or the source is a video.
    """

    def __init__(self, cfg: Config, source: str | Path, samples: int = SAMPLES) -> None:
        if samples < 1:
            raise ValueError(f'samples={samples}: at least 1')
        paths = list_images(source, cfg)
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


def list_images(source: str | Path, cfg: Config | None = None) -> list[str]:
    """List the image files of a source.

    Args:
        source: folder or pattern of images (see :func:`~eomt_mm.apis.inputs.find_sources`), or a config (.py), whose
            training images are listed. Its annotations must be there: they state which images are in the training
            data. Masks and boxes are not used.
        cfg: config that is used, with its overrides, if ``source`` is its file.

    Raises:
        FileNotFoundError: there is no such folder or config, or it has no images.
        ValueError: the config has no training data, or the source or the training data are videos.
    """
    if Path(source).suffix == '.py':
        file = find_config(source).resolve()
        is_own = cfg is not None and cfg.filename is not None and Path(cfg.filename).resolve() == file
        return training_images(cfg if cfg is not None and is_own else load_config(file), source)
    sources = find_sources(str(source))
    if videos := [one.path for one in sources if isinstance(one, Video)]:
        raise ValueError(f'calibration source {videos[0]} is a video: give images, such as some of its frames')
    return [str(one.path) for one in sources]


def training_images(cfg: Config, name: str | Path) -> list[str]:
    """List the image files of a config's training data, also of data sets inside wrappers."""
    if not cfg.get('train_dataloader'):
        raise ValueError(f'config {name} has no train_dataloader: give a folder of images')
    paths: list[Any] = []
    for dataset in unwrapped(cfg.train_dataloader.dataset):
        with DefaultScope.overwrite_default_scope(cfg.get('default_scope')):
            # serialised, mmengine would refuse an empty list, and copy each entry to read it
            built: Any = DATASETS.build({**dataset, 'pipeline': [], 'serialize_data': False})
        paths += [info.get('img_path') for info in built.data_list]
    if not paths:
        raise FileNotFoundError(
            f'the training data of config {name} has no images: check its data_root, ann_file, data_prefix, filter_cfg'
        )
    if None in paths:
        raise ValueError(f'the training data of config {name} holds videos: give a folder of images')
    return paths
