"""Predictions as plain dictionaries, the same for the three tasks, with the names that Hugging Face gives them."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
from mmdet.evaluation.functional import INSTANCE_OFFSET
from mmdet.structures import DetDataSample
from mmseg.structures import SegDataSample

from eomt_mm.evaluation.ap_counting import RLE, encode_masks

Prediction = dict[str, Any]


class FoundSegment(NamedTuple):
    """A segment: its id in the map, class index, score in [0, 1] or None, and mask (H, W) bool."""

    id: int
    label: int
    score: float | None
    mask: np.ndarray


def prediction_of(
    sample: DetDataSample | SegDataSample, classes: Sequence[str], num_things: int = 0, score_thr: float = 0.0
) -> Prediction:
    """The prediction of a sample, on the CPU.

    Args:
        sample: with ``pred_panoptic_seg``, ``pred_instances`` or ``pred_sem_seg``.
        classes: names.
        num_things: classes below this index are things.
        score_thr: instances below it are left out, in [0, 1].

    Returns:
        ``segmentation``, (H, W) int32 at the image's size, and ``segments_info``, a list of plain dictionaries:

        - ``id``: value in the map. Panoptic and instance: from 1, 0 is no segment; where instances overlap, the map
          shows the best. Semantic: the class index.
        - ``label_id``, ``label``: class index and name.
        - ``score``: in [0, 1]; None for semantic.
        - ``area``: in pixels, ``bbox``: [x, y, width, height].
        - ``isthing``: panoptic and instance only.
        - ``mask``: instance only, the whole mask in run lengths of COCO.

        Instances come best first, other segments by their ids.
    """
    if isinstance(sample, SegDataSample):
        return _semantic(sample.pred_sem_seg.data[0].numpy(), classes)
    if 'pred_panoptic_seg' in sample:
        return _panoptic(sample, classes, num_things)
    return _instances(sample, classes, score_thr)


def _semantic(labels: np.ndarray, classes: Sequence[str]) -> Prediction:
    found = [FoundSegment(label, label, None, labels == label) for label in np.unique(labels).tolist()]
    return as_prediction(found, labels.shape, classes)


def _panoptic(sample: DetDataSample, classes: Sequence[str], num_things: int) -> Prediction:
    codes = sample.pred_panoptic_seg.sem_seg[0].numpy()
    ids = np.where(codes % INSTANCE_OFFSET < len(classes), codes // INSTANCE_OFFSET, 0)
    found = [FoundSegment(s['id'], s['label'], s['score'], ids == s['id']) for s in sample.panoptic_segments]
    return as_prediction(found, codes.shape, classes, num_things)


def _instances(sample: DetDataSample, classes: Sequence[str], score_thr: float) -> Prediction:
    instances = sample.pred_instances
    instances = instances[(instances.scores >= score_thr) & instances.masks.flatten(1).any(1)]
    instances = instances[instances.scores.argsort(descending=True, stable=True)]
    columns = instances.labels.tolist(), instances.scores.tolist(), instances.masks.numpy()
    found = [FoundSegment(k, *row) for k, row in enumerate(zip(*columns, strict=True), start=1)]
    return as_prediction(found, instances.masks.shape[1:], classes, len(classes), with_masks=True)


def as_prediction(
    found: Sequence[FoundSegment],
    size: Sequence[int],
    classes: Sequence[str],
    num_things: int | None = None,
    with_masks: bool = False,
) -> Prediction:
    """The dictionary of :func:`prediction_of`.

    Args:
        found: segments; where they overlap, the map shows the first.
        size: (H, W).
        classes: names.
        num_things: classes below this index are things; None: leave ``isthing`` out.
        with_masks: add ``mask``.
    """
    segmentation = np.zeros(tuple(size), np.int32)
    for segment in reversed(found):
        segmentation[segment.mask] = segment.id
    info = [_described(segment, classes) for segment in found]
    if num_things is not None:
        for described in info:
            described['isthing'] = described['label_id'] < num_things
    if with_masks and found:
        for described, rle in zip(info, encode_masks(np.stack([segment.mask for segment in found])), strict=True):
            described['mask'] = _as_text(rle)
    return dict(segmentation=segmentation, segments_info=info)


def _described(segment: FoundSegment, classes: Sequence[str]) -> Prediction:
    return dict(
        id=segment.id,
        label_id=segment.label,
        label=classes[segment.label],
        score=segment.score,
        area=int(np.count_nonzero(segment.mask)),
        bbox=list(cv2.boundingRect(segment.mask.view(np.uint8))),
    )


def _as_text(rle: RLE) -> RLE:
    return dict(size=[int(side) for side in rle['size']], counts=rle['counts'].decode())


def summary(segments: Iterable[Mapping[str, Any]], limit: int = 8) -> str:
    """What ``segments_info`` holds, largest area first, as '3 person, dog, sky'; at most ``limit`` classes by name."""
    counts: Counter[str] = Counter()
    areas: Counter[str] = Counter()
    for segment in segments:
        counts[segment['label']] += 1
        areas[segment['label']] += segment['area']
    words = [f'{counts[label]} {label}' if counts[label] > 1 else label for label, _ in areas.most_common()]
    return ', '.join(words[:limit]) + (f' and {len(words) - limit} more' if len(words) > limit else '') or 'nothing'
