"""Build training targets from ground truth: labels (N,) int64, masks (N, H, W) bool; void pixels are in no mask."""

import torch
import torch.nn.functional as F
from torch import Tensor

from eomt_mm.core.geometry import Size

Target = dict[str, Tensor]


def semantic_target(label_map: Tensor, num_classes: int, ignore_index: int = 255, source: str = '') -> Target:
    """Build one target per class that occurs in a label map.

    Args:
        label_map: (H, W), class indices.
        num_classes: number of classes.
        ignore_index: value of void pixels, which belong to no mask.
        source: file name for error messages.

    Raises:
        ValueError: a label is outside [0, num_classes).
    """
    values = label_map.unique()  # of the map's type: comparing int64 with a smaller type takes up to 2.6 times as long
    values = values[values != ignore_index]
    labels = values.long()
    check_labels(labels, num_classes, source)
    return dict(labels=labels, masks=label_map == values[:, None, None])


def segments_target(id_map: Tensor, labels: Tensor, num_classes: int, source: str = '') -> Target:
    """Build one target per segment of an id map: segment k has label ``labels[k - 1]``; 0 is void.

    Args:
        id_map: (H, W).
        labels: (N,); segments without a pixel in the map give no target.
        num_classes: number of classes.
        source: file name for error messages.

    Raises:
        ValueError: a label is outside [0, num_classes), or an id has no label.
    """
    values = id_map.unique()
    values = values[values > 0]
    ids = values.long()
    check_labels(labels, num_classes, source)
    unlabelled = ids[ids > len(labels)].tolist()
    if unlabelled:
        raise ValueError(
            f'ground truth{f" of {source}" if source else ""} holds segment(s) {unlabelled} with {len(labels)} '
            f'label(s): id k has label k - 1, so a transform that drops instances must keep their labels or '
            f'renumber the map'
        )
    return dict(labels=labels[ids - 1].long(), masks=id_map == values[:, None, None])


def check_labels(labels: Tensor, num_classes: int, source: str) -> None:
    """Raise ValueError if a label is outside [0, num_classes)."""
    outside = labels[(labels < 0) | (labels >= num_classes)].unique().tolist()
    if outside:
        raise ValueError(
            f'ground truth{f" of {source}" if source else ""} holds label(s) {outside}, outside the {num_classes} '
            f'classes 0..{num_classes - 1}: check metainfo.classes (and num_classes, if it is set), '
            f'reduce_zero_label and the ignore index; if the values of label maps are not class indices, '
            f'set label_ids=(...) of LoadSemanticMap to the value of each class'
        )


def with_valid(target: Target) -> Target:
    """Add ``valid`` (H, W) bool, the union of all masks.

    Use it only for ground truth in which every labelled pixel belongs to a target, so that all other pixels are void.
    """
    return dict(target, valid=target['masks'].any(0))


def pad_masks(target: Target, size: Size) -> Target:
    """Pad masks at the bottom and the right to the input's ``size``; padded pixels belong to no mask.

    Raises:
        ValueError: the masks are larger than ``size``.
    """
    h, w = target['masks'].shape[-2:]
    if (h, w) == tuple(size):
        return target
    if h > size[0] or w > size[1]:
        raise ValueError(
            f'ground truth of {h} x {w} pixels does not fit the input of {size[0]} x {size[1]}: image and ground truth '
            f'must go through the same resizing and cropping'
        )
    return dict(target, masks=F.pad(target['masks'], (0, size[1] - w, 0, size[0] - h)))


def num_values(values: Tensor, skip: int) -> int:
    """Count the distinct values other than ``skip``; all values below 0 count as -1.

    A map of one megapixel takes 1 to 2 ms.
    """
    counts = torch.bincount(values.flatten().int().clamp(min=-1) + 1)
    counts[skip + 1 : skip + 2] = 0
    return int(counts.count_nonzero())
