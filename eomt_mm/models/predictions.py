"""Convert predictions and ground truth of the hosts' samples to segments with numpy masks, for all three tasks."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from mmdet.evaluation.functional import INSTANCE_OFFSET
from mmdet.structures import DetDataSample
from mmseg.structures import SegDataSample
from torch import Tensor

from eomt_mm.visualization import DrawnSegment, class_segments

Sample: TypeAlias = DetDataSample | SegDataSample


class Segment(NamedTuple):
    """A segment: its id, class index, score in [0, 1] or None, and mask (H, W) bool."""

    id: int
    label: int
    score: float | None
    mask: np.ndarray


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
        found = [(code // INSTANCE_OFFSET, code % INSTANCE_OFFSET, code) for code in np.unique(codes).tolist()]
        return [
            Segment(id_, label, scores.get(id_), codes == code) for id_, label, code in found if label < num_classes
        ]
    instances = sample.pred_instances
    instances = instances[(instances.scores >= score_thr) & instances.masks.flatten(1).any(1)]
    instances = instances[instances.scores.argsort(descending=True, stable=True)]
    columns = instances.labels.tolist(), instances.scores.tolist(), _array(instances.masks)
    return [Segment(number, *row) for number, row in enumerate(zip(*columns, strict=True), start=1)]


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
    return class_segments([s.mask for s in segments], [s.label for s in segments], meta, [s.score for s in segments])


def has_void(sample: Sample) -> bool:
    """Return whether pixels outside all segments are void in the ground truth; for instances they are background."""
    return isinstance(sample, SegDataSample) or 'gt_panoptic_seg' in sample


def label_map_segments(label_map: np.ndarray, num_classes: int) -> list[Segment]:
    """Return one segment for each class in a map (H, W) of class indices."""
    labels = [label for label in np.unique(label_map).tolist() if label < num_classes]
    return [Segment(label, label, None, label_map == label) for label in labels]


def _numbered(labels: Sequence[int], masks: Sequence[np.ndarray] | np.ndarray) -> list[Segment]:
    return [Segment(k, label, None, mask) for k, (label, mask) in enumerate(zip(labels, masks, strict=True), start=1)]


def _array(x: Tensor) -> np.ndarray:
    array: np.ndarray = x.cpu().numpy()
    return array
