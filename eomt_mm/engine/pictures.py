"""Pictures during validation and testing: image, ground truth and prediction side by side."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from mmdet.structures import TrackDataSample
from mmengine.hooks import Hook
from PIL import Image

from eomt_mm.datasets.loading import LoadImage
from eomt_mm.fileio.result_names import ResultNames, name_below
from eomt_mm.models.predictions import Sample, drawn_ground_truth, drawn_prediction, has_void
from eomt_mm.registry import HOOKS
from eomt_mm.visualization import PALETTES, draw_segments, legend_of, side_by_side, with_palette
from eomt_mm.visualization.figures import save_picture

Meta: TypeAlias = dict[str, Any]


@HOOKS.register_module()
class PictureHook(Hook):
    """Draw the first images of each validation or test: image, ground truth (if loaded) and prediction side by side.

    Pictures go to a folder or, without one, to the visualizer's back-ends (local files, TensorBoard, W&B, ...) as
    ``val_NAME_OF_IMAGE`` and ``test_NAME_OF_IMAGE``, with the iteration as the step. No config includes this hook.
    ``tools/test.py --show-dir`` adds it, or a config does (the second line is for TensorBoard)::

        default_hooks = dict(pictures=dict(type='eomt_mm.PictureHook'))
        visualizer = dict(vis_backends=[dict(type='LocalVisBackend'), dict(type='TensorboardVisBackend')])

    Args:
        out_dir: folder, created if missing; files are ``NAME_OF_IMAGE.png`` in a test and
            ``NAME_OF_IMAGE_ITERATION.png`` in a validation. None: the back-ends, which only the first process writes
            to.
        img_prefix: folder of the images; names keep the path below it. None: the file name alone. If two images would
            share a name, the second gets ``_2``.
        max_images: number of pictures of a test, per process.
        max_val_images: number of pictures of a validation, per process.
        interval: draw in every ``interval``-th validation.
        score_thr: minimum score of drawn instances, in [0, 1].
        palette: 'dataset' for the data set's own colours, or 'distinct' for colours that are distinguishable with
            colour vision deficiency.
        max_side: longest side of a drawn image in pixels; larger images are shrunk.

    Raises:
        ValueError: ``palette`` is unknown, or ``interval`` or ``max_side`` is below 1.
    """

    priority = 'LOWEST'

    def __init__(
        self,
        out_dir: str | None = None,
        max_images: int = 100,
        max_val_images: int = 8,
        interval: int = 1,
        score_thr: float = 0.3,
        palette: str = 'dataset',
        max_side: int = 1600,
        img_prefix: str | None = None,
    ) -> None:
        if palette not in PALETTES:
            raise ValueError(f"palette='{palette}': one of {PALETTES}")
        if interval < 1 or max_side < 1:
            raise ValueError(f'interval={interval}, max_side={max_side}: at least 1')
        self.out_dir = None if out_dir is None else Path(out_dir)
        self.img_prefix = img_prefix
        self.limits = dict(val=max_val_images, test=max_images)
        self.interval = interval
        self.score_thr = score_thr
        self.palette = palette
        self.max_side = max_side
        self._drawn = 0
        self._names = ResultNames()
        self._validations = 0

    def before_val(self, runner: Any) -> None:
        """Reset the count of pictures; draw nothing in validations that ``interval`` skips."""
        skipped = self._validations % self.interval > 0
        self._drawn = self.limits['val'] if skipped else 0
        self._validations += 1

    def before_test(self, runner: Any) -> None:
        """Reset the count of pictures."""
        self._drawn = 0

    def after_val_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Draw the samples of the batch."""
        self._draw_batch(runner, 'val', runner.val_dataloader.dataset, outputs)

    def after_test_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Draw the samples of the batch."""
        self._draw_batch(runner, 'test', runner.test_dataloader.dataset, outputs)

    def _draw_batch(self, runner: Any, mode: str, dataset: Any, samples: Sequence[Sample] | None) -> None:
        meta, load = with_palette(dataset.metainfo, self.palette), image_loader(dataset)
        for sample in (samples or [])[: max(0, self.limits[mode] - self._drawn)]:
            if isinstance(sample, TrackDataSample):
                raise TypeError(
                    'PictureHook draws images only; for videos use: python tools/demo.py FRAMES CONFIG CHECKPOINT'
                )
            picture = sample_picture(sample, meta, self.score_thr, self.max_side, load)
            name = name_below(sample.img_path, self.img_prefix)
            # Back-ends create no folders.
            name = self._names.unique(name.replace('/', '_') if self.out_dir is None else name, sample.img_path)
            if self.out_dir is None:
                runner.visualizer.add_image(f'{mode}_{name}', np.asarray(picture), runner.iter)
            else:
                file = f'{name}.png' if mode == 'test' else f'{name}_{runner.iter}.png'
                save_picture(picture, self.out_dir / file)
            self._drawn += 1


def image_loader(dataset: Any) -> LoadImage:
    """A step that reads images with the limits of a data set's pipeline, so that pictures show what the model gets."""
    while inner := getattr(dataset, 'dataset', None) or next(iter(getattr(dataset, 'datasets', ())), None):  # wrappers
        dataset = inner
    steps = getattr(getattr(dataset, 'pipeline', None), 'transforms', ())
    first = next((step for step in steps if isinstance(step, LoadImage)), LoadImage())
    return LoadImage(max_pixels=first.max_pixels, bits=first.bits, backend_args=first.backend_args)


def sample_picture(
    sample: Sample, meta: Meta, score_thr: float = 0.3, max_side: int | None = None, load: LoadImage | None = None
) -> Image.Image:
    """Draw image, ground truth (if the sample has it) and prediction side by side; void in the ground truth is hatched.

    Args:
        sample: sample with a prediction at the image's size.
        meta: classes and palette of the data set.
        score_thr: minimum score of drawn instances, in [0, 1].
        max_side: longest side of a drawn image in pixels; larger images are shrunk.
        load: step that loads the image; None: `LoadImage` without arguments.
    """
    loaded = (load or LoadImage())(dict(img_path=sample.img_path))
    image = np.ascontiguousarray(loaded['img'][..., ::-1])
    expected, found = drawn_ground_truth(sample, meta), drawn_prediction(sample, meta, score_thr)
    panels = [('input', draw_segments(image, [], max_side=max_side))]
    if expected is not None:
        picture = draw_segments(image, expected, hatch_void=has_void(sample), max_side=max_side)
        panels.append(('ground truth', picture))
    panels.append(('prediction', draw_segments(image, found, max_side=max_side)))
    return side_by_side(panels, legend_of((segment.name for segment in [*(expected or []), *found]), meta))
