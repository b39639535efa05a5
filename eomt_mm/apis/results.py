"""Predictions as plain dictionaries, the same for the three tasks, with the names that Hugging Face gives them."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from mmdet.evaluation.functional import INSTANCE_OFFSET
from mmdet.structures import DetDataSample
from mmseg.structures import SegDataSample

from eomt_mm.evaluation.ap_counting import RLE, encode_masks

Prediction = dict[str, Any]


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
    segmentation = labels.astype(np.int32)
    found = [int(label) for label in np.unique(segmentation)]
    info = [_described(label, label, classes, None, segmentation == label) for label in found]
    return dict(segmentation=segmentation, segments_info=info)


def _panoptic(sample: DetDataSample, classes: Sequence[str], num_things: int) -> Prediction:
    codes = sample.pred_panoptic_seg.sem_seg[0].numpy()
    segmentation = np.where(codes % INSTANCE_OFFSET < len(classes), codes // INSTANCE_OFFSET, 0).astype(np.int32)
    info = []
    for segment in sample.panoptic_segments:
        label = segment['label']
        found = _described(segment['id'], label, classes, segment['score'], segmentation == segment['id'])
        info.append({**found, 'isthing': label < num_things})
    return dict(segmentation=segmentation, segments_info=info)


def _instances(sample: DetDataSample, classes: Sequence[str], score_thr: float) -> Prediction:
    instances = sample.pred_instances
    instances = instances[(instances.scores >= score_thr) & instances.masks.flatten(1).any(1)]
    instances = instances[instances.scores.argsort(descending=True, stable=True)]
    masks = instances.masks.numpy()
    segmentation = np.zeros(masks.shape[1:], np.int32)
    for k in reversed(range(len(masks))):  # the best ones last, on top
        segmentation[masks[k]] = k + 1
    found = zip(instances.labels.tolist(), instances.scores.tolist(), masks, encode_masks(masks), strict=True)
    info = [
        {**_described(k, label, classes, score, mask), 'isthing': True, 'mask': _as_text(rle)}
        for k, (label, score, mask, rle) in enumerate(found, start=1)
    ]
    return dict(segmentation=segmentation, segments_info=info)


def _described(id_: int, label: int, classes: Sequence[str], score: float | None, mask: np.ndarray) -> Prediction:
    return dict(
        id=id_,
        label_id=label,
        label=classes[label],
        score=score,
        area=int(np.count_nonzero(mask)),
        bbox=list(cv2.boundingRect(mask.view(np.uint8))),
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
