"""Panoptic quality on arrays: count per image, average over categories.

The rules are those of the COCO panoptic evaluation (Kirillov et al., "Panoptic Segmentation", CVPR 2019, section 4;
https://cocodataset.org/#panoptic-eval):

- A predicted and a ground-truth segment match if they have the same category and IoU > 0.5; the union excludes
  predicted pixels on void. At this threshold a segment matches at most one other.
- Crowd segments of the ground truth match nothing and are never counted as misses.
- An unmatched prediction is not a false positive if more than half of it lies on void and on the crowd of its category.
- Categories that occur neither in the ground truth nor in the prediction are excluded from averages.

Areas are pixel counts of the maps; the ``area`` of annotation files is not read.
"""

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import numpy as np

from eomt_mm.annotations.panoptic_png import index_of, run_starts


class Averages(TypedDict):
    """Panoptic, segmentation and recognition quality in [0, 1], averaged over n categories; NaN if n = 0."""

    pq: float
    sq: float
    rq: float
    n: int


def listed_segments(segments_info: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """Convert the entries of a JSON to segments (G, 3) for `count_panoptic`: id, category id, is crowd."""
    rows = [(segment['id'], segment['category_id'], bool(segment.get('iscrowd'))) for segment in segments_info]
    return np.array(rows, dtype=np.int64).reshape(-1, 3)


def count_panoptic(
    gt_ids: np.ndarray,
    gt_segments: np.ndarray,
    pred_ids: np.ndarray,
    pred_segments: np.ndarray,
    only_listed: bool = False,
) -> np.ndarray:
    """Count matches, false positives and misses of an image.

    Args:
        gt_ids: (H, W), integers; ids that ``gt_segments`` does not list are void.
        gt_segments: (G, 3), integers: id, category id, is crowd (0 or 1); ids are unique.
        pred_ids: (H, W), integers; ids that ``pred_segments`` does not list are void.
        pred_segments: (P, 2), integers: id, category id; ids are unique.
        only_listed: reject predicted ids that are neither listed nor 0, as the benchmark server does.

    Returns:
        (R, 5), float64: category id, sum of the IoU of matches, matches, false positives, misses; one row per
        category with a nonzero count, in ascending order.

    Raises:
        ValueError: the maps differ in size, ids repeat, a predicted segment has no pixel, or ids are not listed.
    """
    overlap = checked_overlap(gt_ids, gt_segments, pred_ids, pred_segments, only_listed)
    return count_segments(overlap, gt_segments[:, 1], gt_segments[:, 2] != 0, pred_segments[:, 1])


def checked_overlap(
    gt_ids: np.ndarray,
    gt_segments: np.ndarray,
    pred_ids: np.ndarray,
    pred_segments: np.ndarray,
    only_listed: bool = False,
) -> np.ndarray:
    """Count as `count_overlap`; arguments and errors as of `count_panoptic`."""
    if gt_ids.shape != pred_ids.shape:
        raise ValueError(
            f'prediction is {pred_ids.shape}, ground truth {gt_ids.shape} (height, width): '
            'resize predictions to the size of the original image'
        )
    for name, segments in (('gt_segments', gt_segments), ('pred_segments', pred_segments)):
        if len(np.unique(segments[:, 0])) < len(segments):
            raise ValueError(f'{name} lists an id twice: {sorted(segments[:, 0].tolist())}; ids must be unique')
    overlap = count_overlap(gt_ids, gt_segments[:, 0], pred_ids, pred_segments[:, 0])
    pred_areas = overlap.sum(axis=0)[1:]
    if not pred_areas.all():
        raise ValueError(f'predicted segments {pred_segments[pred_areas == 0, 0].tolist()} have no pixel: drop them')

    if only_listed and overlap[:, 0].sum() > np.count_nonzero(pred_ids == 0):
        unlisted = sorted(set(np.unique(pred_ids).tolist()) - {0, *pred_segments[:, 0].tolist()})
        raise ValueError(f'predicted ids {unlisted} are not listed: list every id of the map but 0, void')
    return overlap


def count_overlap(
    gt_ids: np.ndarray, gt_listed: np.ndarray, pred_ids: np.ndarray, pred_listed: np.ndarray
) -> np.ndarray:
    """Count the common pixels of all pairs of segments.

    Args:
        gt_ids: (H, W), integers.
        gt_listed: (G,), ids of segments; all others are void.
        pred_ids: (H, W), integers.
        pred_listed: (P,), the same for the prediction.

    Returns:
        (G + 1, P + 1), int64; row and column 0 are void.
    """
    starts = run_starts(gt_ids, pred_ids)
    lengths = np.diff(starts, append=gt_ids.size)
    gt_index = index_of(gt_ids.ravel()[starts], gt_listed)
    pred_index = index_of(pred_ids.ravel()[starts], pred_listed)
    shape = (len(gt_listed) + 1, len(pred_listed) + 1)
    # Weights are summed in float64, which is exact up to 2**53 pixels.
    pixels = np.bincount(gt_index * shape[1] + pred_index, weights=lengths, minlength=shape[0] * shape[1])
    return pixels.astype(np.int64).reshape(shape)


def count_segments(overlap: np.ndarray, gt: np.ndarray, is_crowd: np.ndarray, pred: np.ndarray) -> np.ndarray:
    """Count matches, false positives and misses from the numbers of common pixels.

    Args:
        overlap: (G + 1, P + 1), see `count_overlap`.
        gt: (G,), category ids of the ground-truth segments.
        is_crowd: (G,), bool.
        pred: (P,), category ids of the predicted segments.

    Returns:
        (R, 5), see `count_panoptic`.
    """
    gt_matched, pred_matched, ious = _match(overlap, gt, is_crowd, pred)
    ignored = overlap[0, 1:] + _overlap_with_crowd(overlap, gt, is_crowd, pred)
    wrong = (2 * ignored <= overlap.sum(axis=0)[1:]).astype(bool)
    wrong[pred_matched] = False
    missed = ~is_crowd
    missed[gt_matched] = False
    return _rows(gt[gt_matched], ious, pred[wrong], gt[missed])


def _match(
    overlap: np.ndarray, gt_categories: np.ndarray, is_crowd: np.ndarray, pred_categories: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Match segments; return the indices (M,) of matched ground-truth and predicted segments and their IoU (M,)."""
    common = overlap[1:, 1:]
    same = (gt_categories[:, None] == pred_categories) & ~is_crowd[:, None]
    gt, pred = np.nonzero(same & (common > 0))
    gt_areas = overlap[1:].sum(axis=1)
    pred_areas_off_void = common.sum(axis=0)
    common = common[gt, pred]
    union = gt_areas[gt] + pred_areas_off_void[pred] - common
    # Compare integers, so that rounding cannot turn an IoU of exactly 0.5 into a match.
    matched = 2 * common > union
    return gt[matched], pred[matched], common[matched] / union[matched]


def _overlap_with_crowd(overlap: np.ndarray, gt: np.ndarray, is_crowd: np.ndarray, pred: np.ndarray) -> np.ndarray:
    """Number of pixels (P,), int64, of each predicted segment on the crowd of its category."""
    # If an image has several crowds of a category, the COCO evaluation uses the one listed last.
    crowd_of = {category: row for row, category in enumerate(gt.tolist(), start=1) if is_crowd[row - 1]}
    on_crowd = [
        overlap[crowd_of[category], column] if category in crowd_of else 0
        for column, category in enumerate(pred.tolist(), start=1)
    ]
    return np.array(on_crowd, dtype=np.int64)


def _rows(matched: np.ndarray, ious: np.ndarray, wrong: np.ndarray, missed: np.ndarray) -> np.ndarray:
    """Build the rows of `count_panoptic` from the categories of matches (M,), their IoU, false positives and misses."""
    categories, place = np.unique(np.concatenate([matched, wrong, missed]), return_inverse=True)
    size = len(categories)
    matched_at, wrong_at, missed_at = np.split(place, [len(matched), len(matched) + len(wrong)])
    columns = [
        categories,
        np.bincount(matched_at, weights=ious, minlength=size),
        np.bincount(matched_at, minlength=size),
        np.bincount(wrong_at, minlength=size),
        np.bincount(missed_at, minlength=size),
    ]
    return np.stack(columns, axis=1).astype(np.float64)


def average_pq(rows: np.ndarray, categories: Mapping[int, bool]) -> tuple[dict[str, Averages], dict[int, Averages]]:
    """Average quality over categories.

    Args:
        rows: (R, 5), rows of `count_panoptic` of any number of images.
        categories: category ids to average over, and whether each is a thing; rows of other categories are ignored.

    Returns:
        averages under 'All', 'Things' and 'Stuff'; and the same per category, with n = 1, or n = 0 and NaN if nothing
        was counted.
    """
    ids = np.array(list(categories), dtype=np.int64)
    place = index_of(rows[:, 0].astype(np.int64), ids)
    totals = np.zeros((len(ids) + 1, 4))
    np.add.at(totals, place, rows[:, 1:])
    iou, matches, wrong, missed = totals[1:].T
    counted = matches + wrong + missed > 0
    found = np.maximum(matches, 1)
    sq = iou / found
    rq = matches / np.maximum(matches + 0.5 * wrong + 0.5 * missed, 0.5)
    is_thing = np.array(list(categories.values()), dtype=bool)
    every = np.ones(len(ids), dtype=bool)

    def average(chosen: np.ndarray) -> Averages:
        chosen = chosen & counted
        n = int(chosen.sum())
        pq, sq_, rq_ = (float(value[chosen].mean()) if n else float('nan') for value in (sq * rq, sq, rq))
        return {'pq': pq, 'sq': sq_, 'rq': rq_, 'n': n}

    averages = {'All': average(every), 'Things': average(is_thing), 'Stuff': average(~is_thing)}
    return averages, {int(id_): average(ids == id_) for id_ in ids}
