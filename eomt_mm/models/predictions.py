"""Convert predictions and ground truth of the hosts' samples to segments with numpy masks, for all three tasks."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from operator import eq
from typing import Any, TypeAlias

import numpy as np
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData
from mmseg.structures import SegDataSample
from torch import Tensor

from eomt_mm.annotations.masks import RLE, areas, decode_mask, encode_masks
from eomt_mm.annotations.panoptic_codes import INSTANCE_OFFSET
from eomt_mm.annotations.panoptic_png import run_starts
from eomt_mm.visualization import DrawnSegment, class_segments

Sample: TypeAlias = DetDataSample | SegDataSample


@dataclass(frozen=True)
class Segment:
    """A segment.

    Attributes:
        id: of the segment.
        label: class index.
        score: in [0, 1], or None.
        source: its mask (H, W) bool, run lengths of it, or a function that returns it: the masks of many segments of a
            large image would fill the memory.
    """

    id: int
    label: int
    score: float | None
    source: np.ndarray | RLE | Callable[[], np.ndarray]

    def read(self) -> np.ndarray:
        """Return the mask (H, W) bool; computed at every call if the segment does not hold it."""
        if callable(self.source):
            return self.source()
        return decode_mask(self.source) if isinstance(self.source, dict) else self.source

    @property
    def mask(self) -> np.ndarray:
        """The mask of :meth:`read`; keep it only as long as it is needed."""
        return self.read()

    @property
    def rle(self) -> RLE:
        """Run lengths of the mask."""
        return self.source if isinstance(self.source, dict) else encode_masks(self.read()[None])[0]


def predicted_segments(sample: Sample, num_classes: int, score_thr: float = 0.0) -> list[Segment]:
    """Return the segments of a prediction at the image's size.

    Args:
        sample: sample with ``pred_panoptic_seg``, ``pred_instances`` or ``pred_sem_seg``.
        num_classes: number of classes; pixels with larger labels belong to no segment.
        score_thr: minimum score of instances, in [0, 1].

    Returns:
        semantic: ordered by class index, which is also the id. Panoptic: ordered by id, as in the prediction; segments
        of other models may have no score. Instance: best first, with ids from 1; empty masks are left out.
    """
    if isinstance(sample, SegDataSample):
        return label_map_segments(_array(sample.pred_sem_seg.data[0]), num_classes)
    if 'pred_panoptic_seg' in sample:
        codes = _array(sample.pred_panoptic_seg.sem_seg[0])
        scores = {segment['id']: segment['score'] for segment in sample.get('panoptic_segments', ())}
        found = [(code // INSTANCE_OFFSET, code % INSTANCE_OFFSET, code) for code in values_of(codes)]
        return [
            Segment(id_, label, scores.get(id_), partial(eq, codes, code))
            for id_, label, code in found
            if label < num_classes
        ]
    rows = _visible_instances(sample.pred_instances, score_thr)
    return [Segment(number, *row) for number, row in enumerate(rows, start=1)]


def _visible_instances(instances: InstanceData, score_thr: float) -> Iterator[tuple[int, float, np.ndarray | RLE]]:
    """Yield label, score and mask of the instances with pixels and scores of at least ``score_thr``, best first."""
    best = instances.scores.argsort(descending=True, stable=True)
    best = best[instances.scores[best] >= score_thr]
    columns = instances.labels[best].tolist(), instances.scores[best].tolist(), best.tolist()
    for label, score, place in zip(*columns, strict=True):
        mask = instances.masks[place]
        mask = mask if isinstance(mask, dict) else _array(mask)
        if areas([mask])[0] if isinstance(mask, dict) else mask.any():
            yield label, score, mask


def ground_truth_segments(sample: Sample, num_classes: int) -> list[Segment] | None:
    """Return the segments of the ground truth at its own size, without scores; None if there is no ground truth."""
    if isinstance(sample, SegDataSample):
        return label_map_segments(_array(sample.gt_sem_seg.data[0]), num_classes) if 'gt_sem_seg' in sample else None
    if 'gt_panoptic_seg' in sample:
        ids, labels = _array(sample.gt_panoptic_seg.segment_ids[0]), sample.gt_instances.labels.tolist()
        return _numbered(labels, [ids == number for number in range(1, len(labels) + 1)])
    if 'gt_instances' in sample and 'masks' in sample.gt_instances:
        return _numbered(sample.gt_instances.labels.tolist(), sample.gt_instances.masks.to_ndarray().astype(bool))
    return None


def drawn_prediction(sample: Sample, meta: Mapping[str, Any], score_thr: float = 0.0) -> list[DrawnSegment]:
    """Return :func:`predicted_segments` in the colours of a data set's ``meta``, the best instance last (on top)."""
    found = predicted_segments(sample, len(meta['classes']), score_thr)
    return drawn_segments(
        found if isinstance(sample, SegDataSample) or 'pred_panoptic_seg' in sample else found[::-1], meta
    )


def drawn_ground_truth(sample: Sample, meta: Mapping[str, Any]) -> list[DrawnSegment] | None:
    """Return :func:`ground_truth_segments` in the colours of a data set's ``meta``."""
    found = ground_truth_segments(sample, len(meta['classes']))
    return None if found is None else drawn_segments(found, meta)


def drawn_segments(segments: Sequence[Segment], meta: Mapping[str, Any]) -> list[DrawnSegment]:
    """Convert segments for drawing, in the colours of their classes."""
    return class_segments([s.read for s in segments], [s.label for s in segments], meta, [s.score for s in segments])


def has_void(sample: Sample) -> bool:
    """Return whether pixels outside all segments are void in the ground truth; for instances they are background."""
    return isinstance(sample, SegDataSample) or 'gt_panoptic_seg' in sample


def label_map_segments(label_map: np.ndarray, num_classes: int) -> list[Segment]:
    """Return one segment for each class in a map (H, W) of class indices."""
    labels = [label for label in values_of(label_map) if label < num_classes]
    return [Segment(label, label, None, partial(eq, label_map, label)) for label in labels]


def values_of(id_map: np.ndarray) -> list[int]:
    """Return the distinct values of a map (H, W), ascending, without sorting a copy of all its pixels."""
    values: list[int] = np.unique(id_map.ravel()[run_starts(id_map)]).tolist()
    return values


def _numbered(labels: Sequence[int], masks: Sequence[np.ndarray] | np.ndarray) -> list[Segment]:
    return [Segment(k, label, None, mask) for k, (label, mask) in enumerate(zip(labels, masks, strict=True), start=1)]


def _array(x: Tensor) -> np.ndarray:
    array: np.ndarray = x.cpu().numpy()
    return array
