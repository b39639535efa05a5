"""Pictures during validation and testing: image, ground truth and prediction side by side."""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import mmcv
import numpy as np
from mmdet.evaluation.functional import INSTANCE_OFFSET
from mmdet.structures import DetDataSample, TrackDataSample
from mmengine.hooks import Hook
from mmseg.structures import SegDataSample
from PIL import Image
from torch import Tensor

from eomt_mm.registry import HOOKS
from eomt_mm.visualization import DrawnSegment, class_colours, draw_segments, shade, side_by_side
from eomt_mm.visualization.figures import save_picture
from eomt_mm.visualization.palettes import PALETTES, Colour

Sample: TypeAlias = DetDataSample | SegDataSample
Meta: TypeAlias = dict[str, Any]


@HOOKS.register_module()
class PictureHook(Hook):
    """Pictures of the first images of each validation or test: image, ground truth (where loaded) and prediction.

    They go to a folder or, without one, to the back-ends of the visualizer (its files, TensorBoard, W&B, ...) under
    ``val_NAME_OF_IMAGE`` and ``test_NAME_OF_IMAGE`` with the iteration as the step. No config has this hook;
    ``tools/test.py --show-dir`` adds it, and so does in a config, of which the second line is for TensorBoard::

        default_hooks = dict(pictures=dict(type='eomt_mm.PictureHook'))
        visualizer = dict(vis_backends=[dict(type='LocalVisBackend'), dict(type='TensorboardVisBackend')])

    Args:
        out_dir: folder, made where missing: ``NAME_OF_IMAGE.png`` of a test, ``NAME_OF_IMAGE_ITERATION.png`` of a
            validation. None: the back-ends, which only the first process feeds.
        max_images: of a test, per process.
        max_val_images: of a validation, per process.
        interval: draw in every so many validations.
        score_thr: instances below it are not drawn, in [0, 1].
        palette: 'dataset', the data set's own colours, or 'distinct', colours for readers of every colour vision.
        max_side: images with a longer side in pixels are shrunk.

    Raises:
        ValueError: ``palette`` is another, or ``interval`` or ``max_side`` below 1.
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
    ) -> None:
        if palette not in PALETTES:
            raise ValueError(f"palette='{palette}': one of {PALETTES}")
        if interval < 1 or max_side < 1:
            raise ValueError(f'interval={interval}, max_side={max_side}: at least 1')
        self.out_dir = None if out_dir is None else Path(out_dir)
        self.limits = dict(val=max_val_images, test=max_images)
        self.interval = interval
        self.score_thr = score_thr
        self.palette = palette
        self.max_side = max_side
        self._drawn = 0
        self._validations = 0

    def before_val(self, runner: Any) -> None:
        """Counts anew; in a validation that ``interval`` leaves out, nothing is drawn."""
        skipped = self._validations % self.interval > 0
        self._drawn = self.limits['val'] if skipped else 0
        self._validations += 1

    def before_test(self, runner: Any) -> None:
        """Counts anew."""
        self._drawn = 0

    def after_val_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Draws the batch's samples."""
        self._draw_batch(runner, 'val', runner.val_dataloader.dataset.metainfo, outputs)

    def after_test_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Draws the batch's samples."""
        self._draw_batch(runner, 'test', runner.test_dataloader.dataset.metainfo, outputs)

    def _draw_batch(self, runner: Any, mode: str, meta: Meta, samples: Sequence[Sample] | None) -> None:
        for sample in (samples or [])[: max(0, self.limits[mode] - self._drawn)]:
            if isinstance(sample, TrackDataSample):
                raise TypeError('PictureHook draws images; videos: python tools/demo.py FRAMES CONFIG CHECKPOINT')
            picture = sample_picture(sample, coloured(meta, self.palette), self.score_thr, self.max_side)
            name = Path(sample.img_path).stem
            if self.out_dir is None:
                runner.visualizer.add_image(f'{mode}_{name}', np.asarray(picture), runner.iter)
            else:
                file = f'{name}.png' if mode == 'test' else f'{name}_{runner.iter}.png'
                save_picture(picture, self.out_dir / file)
            self._drawn += 1


def coloured(meta: Meta, palette: str = 'dataset') -> Meta:
    """Meta information of a data set with another palette, see :func:`~eomt_mm.visualization.class_colours`."""
    return {**meta, 'palette': class_colours(meta, palette)}


def sample_picture(sample: Sample, meta: Meta, score_thr: float = 0.3, max_side: int | None = None) -> Image.Image:
    """Image, ground truth (where the sample has it) and prediction side by side; void of the ground truth is hatched.

    Args:
        sample: with a prediction at the image's size.
        meta: of the data set: classes and palette.
        score_thr: see :func:`predicted_segments`.
        max_side: images with a longer side in pixels are shrunk.
    """
    image = mmcv.imread(sample.img_path, channel_order='rgb')
    truth, found = ground_truth_segments(sample, meta), predicted_segments(sample, meta, score_thr)
    panels = [('input', draw_segments(image, [], max_side=max_side))]
    if truth is not None:
        drawn = draw_segments(image, truth, hatch_void=knows_void(sample), max_side=max_side)
        panels.append(('ground truth', drawn))
    panels.append(('prediction', draw_segments(image, found, max_side=max_side)))
    return side_by_side(panels, legend_of([*(truth or []), *found], meta))


def knows_void(sample: Sample) -> bool:
    """Whether pixels of no segment are void in the ground truth; between instances they are just background."""
    return isinstance(sample, SegDataSample) or 'gt_panoptic_seg' in sample


def legend_of(segments: Iterable[DrawnSegment], meta: Meta) -> list[tuple[str, Colour]]:
    """Names and colours of the classes that are drawn, in the order of classes."""
    drawn = {segment.name for segment in segments}
    return [(name, colour) for name, colour in zip(meta['classes'], meta['palette'], strict=False) if name in drawn]


def ground_truth_segments(sample: Sample, meta: Meta) -> list[DrawnSegment] | None:
    """Segments of the ground truth at its own size; None where the sample has none."""
    if 'gt_sem_seg' in sample and isinstance(sample, SegDataSample):
        return _label_map_segments(_array(sample.gt_sem_seg.data[0]), meta)
    if 'gt_panoptic_seg' in sample:
        ids, labels = _array(sample.gt_panoptic_seg.segment_ids[0]), sample.gt_instances.labels.tolist()
        return _segments([ids == k for k in range(1, len(labels) + 1)], labels, meta)
    if 'gt_instances' in sample and 'masks' in sample.gt_instances:
        masks, labels = sample.gt_instances.masks.to_ndarray(), sample.gt_instances.labels.tolist()
        return _segments(masks.astype(bool), labels, meta)
    return None


def predicted_segments(sample: Sample, meta: Meta, score_thr: float = 0.0) -> list[DrawnSegment]:
    """Segments of the prediction at the image's size, instances from ``score_thr`` on, best last (on top)."""
    if isinstance(sample, SegDataSample):
        return _label_map_segments(_array(sample.pred_sem_seg.data[0]), meta)
    if 'pred_panoptic_seg' in sample:
        codes = _array(sample.pred_panoptic_seg.sem_seg[0])
        found = [int(code) for code in np.unique(codes) if code % INSTANCE_OFFSET < len(meta['classes'])]
        scores = {segment['id']: segment['score'] for segment in sample.get('panoptic_segments', ())}
        return _segments(
            [codes == code for code in found],
            [code % INSTANCE_OFFSET for code in found],
            meta,
            [scores.get(code // INSTANCE_OFFSET) for code in found],
        )
    instances = sample.pred_instances
    instances = instances[instances.scores >= score_thr]
    instances = instances[instances.scores.argsort()]
    return _segments(_array(instances.masks), instances.labels.tolist(), meta, instances.scores.tolist())


def _label_map_segments(label_map: np.ndarray, meta: Meta) -> list[DrawnSegment]:
    labels = [int(label) for label in np.unique(label_map) if label < len(meta['classes'])]
    return _segments([label_map == label for label in labels], labels, meta)


def _segments(
    masks: Iterable[np.ndarray], labels: Sequence[int], meta: Meta, scores: Sequence[float | None] | None = None
) -> list[DrawnSegment]:
    """Segments in the colours of their classes; the second of a class, the third and so on in shades of it."""
    seen: Counter[int] = Counter()
    segments = []
    for mask, label, score in zip(masks, labels, scores or [None] * len(labels), strict=True):
        r, g, b = meta['palette'][label]
        colour = shade((int(r), int(g), int(b)), seen[label])
        segments.append(DrawnSegment(mask, meta['classes'][label], colour, score))
        seen[label] += 1
    return segments


def _array(x: Tensor) -> np.ndarray:
    return x.cpu().numpy()
