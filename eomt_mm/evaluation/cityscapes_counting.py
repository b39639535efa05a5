"""Count instance AP by Cityscapes' rules: match the predictions of an image, compute the area under the curves.

The rules are those of cityscapesScripts' ``evalInstanceLevelSemanticLabeling.py`` (version 2.3.0), on ids as in
``*_gtFine_instanceIds.png``: 1000 labelId + number is an instance. Ids below 1000 are the labelId itself: for a thing
class a group of instances, otherwise stuff or void.

- Instances of at least 100 pixels count. Groups and smaller instances can be neither found nor missed.
- A prediction finds an instance of its class if their IoU is above the threshold. If several predictions find the same
  instance, the one with the highest score is a true positive and the others are false positives.
- Any other prediction is a false positive, unless the share of its pixels on void and on groups and small instances of
  its class is above the threshold. (The script also ignores it if its IoU with one of these is above the threshold, but
  then its share is, too.)
- AP is the area under the precision-recall curve, with one point per score and without interpolation: a point's width
  is half the distance between its neighbours' recalls.
"""

from collections.abc import Sequence

import numpy as np

from eomt_mm.annotations.class_tables import CITYSCAPES_VOID_IDS

FIRST_INSTANCE = 1000
MIN_PIXELS = 100
# As in the script, including rounding (0.6000000000000001): an IoU of exactly 0.6 only exceeds 0.5 and 0.55.
THRESHOLDS = np.arange(0.5, 1.0, 0.05)
# Ids have 16 bits.
NUM_IDS = 1 << 16


def match_instances(
    ids: np.ndarray, masks: np.ndarray, scores: np.ndarray, labels: np.ndarray, label_ids: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Match the predictions of an image to its ground truth.

    Args:
        ids: (H, W), integers in [0, 65535], instance ids as in Cityscapes' files.
        masks: (N, H, W), bool.
        scores: (N,).
        labels: (N,), integers in [0, C - 1].
        label_ids: (C,), Cityscapes' labelId of each label.

    Returns:
        (M, 5), float64, one row per prediction with pixels: label; score; highest IoU with an instance or group of its
        class; id of that instance if it counts, else 0 (meaningless for an IoU of at most 0.5); share of its pixels on
        void and on groups and small instances of its class. And (C,), int64, the number of instances of each class that
        count.
    """
    all_areas = np.bincount(ids.ravel())
    present = np.flatnonzero(all_areas)
    areas = all_areas[present]
    is_group, is_small = present < FIRST_INSTANCE, areas < MIN_PIXELS
    label_id_of = np.where(is_group, present, present // FIRST_INSTANCE)
    # The script compares whole ids: single caravans and trailers (29000 and up) are not void.
    is_void = np.isin(present, CITYSCAPES_VOID_IDS)
    is_counted = ~is_group & ~is_small
    # As in the script, a small group counts twice.
    times_ignored = is_group.astype(np.int64) + is_small
    rows = []
    for mask, score, label in zip(masks, scores, labels, strict=True):
        common = np.bincount(ids[mask], minlength=len(all_areas))[present]
        area = common.sum()
        if area == 0:
            continue
        common_of_class = np.where(label_id_of == label_ids[label], common, 0)
        ious = common_of_class / (areas + area - common_of_class)
        best = ious.argmax()
        ignored = common[is_void].sum() + common_of_class @ times_ignored
        rows.append((label, score, ious[best], present[best] * is_counted[best], ignored / area))
    num_true = (is_counted & (label_id_of == label_ids[:, None])).sum(axis=1)
    return np.array(rows, dtype=np.float64).reshape(-1, 5), num_true


def average_precisions(rows: Sequence[np.ndarray], num_true: np.ndarray) -> np.ndarray:
    """Compute the AP of each class at each IoU threshold.

    Args:
        rows: per image (M, 5), from `match_instances`.
        num_true: (images, C), from `match_instances`.

    Returns:
        (C, 10), float64, in [0, 1]; columns are the thresholds 0.5, 0.55, .. 0.95. NaN for a class without ground
        truth, 0 for a class without predictions that count.
    """
    totals = num_true.sum(axis=0)
    labels, scores, ious, truths, ignored = np.concatenate([np.zeros((0, 5)), *rows]).T
    image = np.repeat(np.arange(len(rows)), [len(one) for one in rows])
    truths = np.where(truths > 0, truths + NUM_IDS * image, 0)
    ap = np.full((len(totals), len(THRESHOLDS)), np.nan)
    for label in np.flatnonzero(totals):
        own = labels == label
        for column, threshold in enumerate(THRESHOLDS):
            right, kept = _settle(scores[own], ious[own], truths[own], ignored[own], threshold)
            ap[label, column] = _area_below_curve(scores[own][kept], right[kept], totals[label])
    return ap


def _settle(
    scores: np.ndarray, ious: np.ndarray, truths: np.ndarray, ignored: np.ndarray, threshold: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return whether each prediction (N,) of a class is a true positive, and whether it counts at all."""
    finds = (ious > threshold) & (truths > 0)
    right = np.zeros(len(scores), dtype=bool)
    order = np.lexsort((scores, truths))
    order = order[finds[order]]
    # Sorted by instance, then by score: take the last prediction of each instance.
    right[order[np.diff(truths[order], append=-1) != 0]] = True
    return right, finds | (ignored <= threshold)


def _area_below_curve(scores: np.ndarray, right: np.ndarray, num_true: int) -> float:
    """AP of the predictions (N,) that count; 0 if there are none."""
    if len(scores) == 0:
        return 0.0
    order = np.argsort(scores)
    # Number of predictions, and of true positives, below each distinct score; equal scores form one point.
    below = np.unique(scores[order], return_index=True)[1]
    right_below = np.concatenate([[0], np.cumsum(right[order])])[below]
    found = right.sum() - right_below
    precision = found / (len(scores) - below)
    recall = found / num_true
    # The curve ends at (recall 0, precision 1), and is constant before its first point and after its last.
    precision, recall = np.append(precision, 1.0), np.concatenate([recall[:1], recall, [0.0, 0.0]])
    return float(precision @ (recall[:-2] - recall[2:]) / 2)
