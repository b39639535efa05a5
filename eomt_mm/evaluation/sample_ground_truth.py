"""Ground truth that samples carry, as loading and packing transforms left it there."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch


class SegmentMap(NamedTuple):
    """The segments of an image (`PackSegments`).

    Attributes:
        ids: (H, W), integers: 0 is void, 1 .. N segments, N + 1 .. N + M crowds.
        labels: (N + M,), int64.
        is_crowd: (N + M,), bool.
        states_crowds: whether the sample has labels of crowds, possibly none.
    """

    ids: np.ndarray
    labels: np.ndarray
    is_crowd: np.ndarray
    states_crowds: bool


def segment_map(sample: Mapping[str, Any]) -> SegmentMap | None:
    """The segments of a sample, None without.

    Read are ``gt_panoptic_seg.segment_ids`` (1, H, W), ``gt_instances.labels`` (N,) and ``ignored_instances.labels``
    (M,); where the last are absent there are no crowds.

    Raises:
        ValueError: ids and labels do not fit each other.
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


def category_ids(meta: Mapping[str, Any]) -> list[int]:
    """Category id of each class in result files: ``meta['category_ids']``, label + 1 where not given.

    Raises:
        ValueError: they do not fit the classes.
    """
    count, ids = len(meta['classes']), meta.get('category_ids')
    ids = list(range(1, count + 1)) if ids is None else [int(id_) for id_ in ids]
    if len(ids) != count or len(set(ids)) < count:
        raise ValueError(f'dataset_meta: category_ids={ids}: give each of the {count} classes its own')
    return ids


def name_of(sample: Mapping[str, Any]) -> str:
    """An image in messages."""
    return f'image {sample["img_id"]} ({sample.get("img_path")})'


def part(sample: Mapping[str, Any], element: str, key: str) -> np.ndarray | None:
    """``sample[element][key]`` as an array, None where one of them is missing."""
    found = sample.get(element)
    value = None if found is None else found.get(key)
    return None if value is None else as_array(value)


def as_array(value: Any) -> np.ndarray:
    """An array, or a tensor on any device."""
    return value.cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)
