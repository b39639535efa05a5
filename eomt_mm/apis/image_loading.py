"""From images to batches as models take them: the first half of an inferencer."""

import warnings
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from mmengine.infer import BaseInferencer

from eomt_mm.apis.inferencer_parts import test_pipeline
from eomt_mm.apis.inputs import ImageInput

Loaded: TypeAlias = tuple[ImageInput, np.ndarray]  # pixels (H, W, 3), uint8, BGR


class ImageLoading(BaseInferencer):
    """Loads images and runs the config's test pipeline on them.

    Attributes:
        skipped: files that could not be read, of the last call.
    """

    skipped: list[Path]

    def preprocess(
        self, inputs: Iterable[ImageInput], batch_size: int = 1, on_error: str = 'raise'
    ) -> Iterator[tuple[list[Loaded], dict[str, Any]]]:
        """Batches of images as the model takes them, each with what was loaded."""
        readable = self._readable(inputs, on_error)
        while batch := list(islice(readable, batch_size)):
            yield [loaded for loaded, _ in batch], self._packed([item for _, item in batch])

    def _readable(self, inputs: Iterable[ImageInput], on_error: str) -> Iterator[tuple[Loaded, dict[str, Any]]]:
        """Images with the items that the pipeline begins with; without bad files that are skipped."""
        for image in inputs:
            found = self._load(image, on_error)
            if found is not None:
                yield found

    def _packed(self, items: list[dict[str, Any]]) -> dict[str, Any]:
        """A batch, through the pipeline."""
        return dict(self.collate_fn([self.pipeline(item) for item in items]))

    def _load(self, image: ImageInput, on_error: str) -> tuple[Loaded, dict[str, Any]] | None:
        """An image, and the item that the pipeline begins with; None for a bad file that is skipped."""
        if image.pixels is not None:
            pixels = image.pixels()
            size = pixels.shape[:2]
            return (image, pixels), dict(img=pixels, img_path=image.name, img_shape=size, ori_shape=size)
        try:
            item = self.load_image(dict(img_path=str(image.path)))
        except (OSError, ValueError) as error:
            if on_error == 'raise':
                raise
            warnings.warn(f'skipped: {error}', stacklevel=2)
            self.skipped.append(Path(str(image.path)))
            return None
        return (image, item['img']), item

    def _init_pipeline(self, cfg: Config) -> Compose:
        self.load_image, pipeline = test_pipeline(cfg)
        return pipeline

    def _init_collate(self, cfg: Config) -> Callable:
        """Lists of images and samples, as our preprocessors take them: sizes differ."""
        return pseudo_collate
