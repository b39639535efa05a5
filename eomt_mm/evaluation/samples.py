"""Read data samples for metrics: predicted instances, ground truth that the pipeline packed, categories."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch

from eomt_mm.annotations.masks import RLE, check_runs

Sample = Mapping[str, Any]  # a data sample as a plain dict


class PredictedInstances(NamedTuple):
    """``pred_instances`` of a sample: labels (N,), scores (N,) float64, masks (N, H, W) bool or N run lengths."""

    labels: np.ndarray
    scores: np.ndarray
    masks: np.ndarray | list[RLE]


class SegmentMap(NamedTuple):
    """Segments that `PackSegments` packed.

    Attributes:
        ids: (H, W), integers: 0 is void, 1 .. N are segments, N + 1 .. N + M crowds.
        labels: (N + M,), int64.
        is_crowd: (N + M,), bool.
        states_crowds: whether the sample has the key for crowd labels, even if there are no crowds.
    """

    ids: np.ndarray
    labels: np.ndarray
    is_crowd: np.ndarray
    states_crowds: bool


def predicted_instances(sample: Sample, num_classes: int) -> PredictedInstances:
    """Read and check the predicted instances of a sample; raises ValueError if parts are missing or inconsistent."""
    found, image = sample.get('pred_instances'), name_of(sample)
    if found is None or 'masks' not in found:
        raise ValueError(f'{image} has no pred_instances.masks: mask AP needs a model that predicts them')
    labels = as_array(found['labels']).astype(np.int64)
    scores = torch.as_tensor(found['scores']).double().cpu().numpy()  # numpy has no bfloat16
    masks = found['masks']
    if not len(labels) == len(scores) == len(masks):
        raise ValueError(
            f'pred_instances of {image} has {len(masks)} masks, {len(scores)} scores, {len(labels)} labels: '
            'give one of each per instance'
        )
    if len(labels) and not 0 <= labels.min() <= labels.max() < num_classes:
        raise ValueError(
            f'labels of pred_instances of {image} are in [{labels.min()}, {labels.max()}], but dataset_meta has '
            f'{num_classes} classes: give model and data set the same classes'
        )
    if isinstance(masks, list):
        runs = [check_runs(mask, f'prediction {k} of {image}') for k, mask in enumerate(masks)]
        return PredictedInstances(labels, scores, runs)
    masks = as_array(masks)
    if masks.ndim != 3 or masks.dtype != bool:
        raise ValueError(
            f'pred_instances.masks of {image} has shape {masks.shape}, type {masks.dtype}: give booleans (N, H, W)'
        )
    return PredictedInstances(labels, scores, masks)


def segment_map(sample: Sample) -> SegmentMap | None:
    """Read the ground-truth segments of a sample; None if it has none.

    They are ``gt_panoptic_seg.segment_ids`` (1, H, W), ``gt_instances.labels`` (N,) and ``ignored_instances.labels``
    (M,). Without the last, there are no crowds.

    Raises:
        ValueError: ids and labels are inconsistent.
    """
    ids, labels = part(sample, 'gt_panoptic_seg', 'segment_ids'), part(sample, 'gt_instances', 'labels')
    if ids is None or labels is None:
        return None
    crowds = part(sample, 'ignored_instances', 'labels')
    every = np.concatenate([labels, labels[:0] if crowds is None else crowds]).astype(np.int64)
    ids = ids.reshape(ids.shape[-2:])
    if ids.size and not 0 <= ids.min() <= ids.max() <= len(every):
        raise ValueError(
            f'{name_of(sample)}: ids of gt_panoptic_seg are in [{ids.min()}, {ids.max()}], but there are labels of '
            f'{len(labels)} segments and {len(every) - len(labels)} crowds: id k needs the k-th label'
        )
    return SegmentMap(ids, every, np.arange(len(every)) >= len(labels), crowds is not None)


def categories_of(meta: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Build the categories of the classes: 'name' and 'id', from ``meta['category_ids']`` or, by default, label + 1.

    Raises:
        ValueError: the ids repeat, or their number differs from that of the classes.
    """
    classes, ids = meta['classes'], meta.get('category_ids')
    ids = list(range(1, len(classes) + 1)) if ids is None else [int(id_) for id_ in ids]
    if len(ids) != len(classes) or len(set(ids)) < len(ids):
        raise ValueError(f'dataset_meta: category_ids={ids}: give each of the {len(classes)} classes its own')
    return [{'id': id_, 'name': name} for id_, name in zip(ids, classes, strict=True)]


def path_of(sample: Sample) -> str:
    """Image path of a sample, after which result files are named; raises ValueError if it is missing."""
    if not sample.get('img_path'):
        raise ValueError(f'image {sample["img_id"]} has no img_path, after which result files are named: pack it')
    return str(sample['img_path'])


def name_of(sample: Sample) -> str:
    """Describe an image by id and path, for messages."""
    return f'image {sample["img_id"]} ({sample.get("img_path")})'


def part(sample: Sample, element: str, key: str) -> np.ndarray | None:
    """Return ``sample[element][key]`` as an array; None if either is missing."""
    found = sample.get(element)
    value = None if found is None else found.get(key)
    return None if value is None else as_array(value)


def as_array(value: Any) -> np.ndarray:
    """Convert an array, a list, or a tensor on any device to an array."""
    return value.cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)
