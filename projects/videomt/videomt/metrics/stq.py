"""Segmentation and tracking quality (Weber et al., "STEP: Segmenting and Tracking Every Pixel", NeurIPS 2021)."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from mmdet.structures import DetDataSample

from eomt_mm.registry import METRICS
from videomt.metrics.overlaps import Overlaps
from videomt.metrics.video_metric import VideoMetric, frame_ground_truth, segment_map, things_of


class VideoCounts(NamedTuple):
    """Counts of a video.

    Attributes:
        confusion: (K, K + 1), pixels by ground-truth and predicted class, the last column void.
        association: sum over ground-truth tracks of their association quality, each in [0, 1].
        num_tracks: number of ground-truth tracks.
    """

    confusion: np.ndarray
    association: float
    num_tracks: int


def count_video(overlaps: Overlaps, is_thing: np.ndarray) -> VideoCounts:
    """Count the confusion matrix and the association quality of a video.

    The association quality of a ground-truth track g is 1 / |g| * sum over predicted tracks p of |p & g| * IoU(p, g),
    where pixels of p on void are not counted. Tracks are things with an id above 0, regardless of class, so ids must
    differ between classes.

    Args:
        overlaps: of all its frames.
        is_thing: (K,), bool.
    """
    num_classes = len(is_thing)
    table = overlaps.window(0, len(overlaps))[1:]  # off void
    true, predicted = overlaps.true, overlaps.predicted
    confusion = np.zeros((num_classes, num_classes + 1), np.int64)
    columns = np.concatenate([[num_classes], predicted[:, 0]])
    np.add.at(confusion, (true[:, 0, None], columns[None]), table)

    is_track = is_thing[predicted[:, 0]] & (predicted[:, 1] > 0)
    areas = _summed(table[:, 1:].sum(0)[is_track], predicted[is_track, 1], axis=0)
    thing_rows = is_thing[true[:, 0]]
    common = _summed(table[:, 1:][thing_rows][:, is_track], predicted[is_track, 1], axis=1)
    common = _summed(common, true[thing_rows, 1], axis=0)  # (G, P)
    true_areas = _summed(table.sum(1)[thing_rows], true[thing_rows, 1], axis=0)
    seen = true_areas > 0
    common, true_areas = common[seen], true_areas[seen]
    iou = common / np.maximum(true_areas[:, None] + areas - common, 1)
    return VideoCounts(confusion, float(((common * iou).sum(1) / true_areas).sum()), len(true_areas))


def _summed(values: np.ndarray, ids: np.ndarray, axis: int) -> np.ndarray:
    """Sum the entries of each id along an axis; ids ascending."""
    unique, place = np.unique(ids, return_inverse=True)
    total = np.zeros((len(unique), *np.moveaxis(values, axis, 0).shape[1:]), values.dtype)
    np.add.at(total, place, np.moveaxis(values, axis, 0))
    return np.moveaxis(total, 0, axis)


@METRICS.register_module()
class SegmentationTrackingQuality(VideoMetric):
    """STQ = sqrt(AQ * SQ), AQ and SQ, in percent.

    SQ is the IoU of classes over all pixels of all videos, averaged over classes that occur in the ground truth or, off
    void, in predictions. AQ is the mean association quality over all ground-truth tracks of all videos; see
    :func:`count_video`. NaN if there is nothing to average over.

    Samples and dataset_meta are as for `VideoPanopticQuality`.
    """

    default_prefix = 'vps'

    def start_video(self, frame: DetDataSample) -> Overlaps:
        return Overlaps(len(things_of(self.dataset_meta)))

    def add_frame(self, counts: Overlaps, frame: DetDataSample) -> None:
        panoptic = segment_map(frame, 'pred_panoptic_seg')
        counts.add(frame_ground_truth(frame, panoptic.shape), panoptic)

    def end_video(self, counts: Overlaps) -> VideoCounts:
        return count_video(counts, np.array(list(things_of(self.dataset_meta).values())))

    def average(self, videos: Mapping[Any, VideoCounts]) -> dict[str, float]:
        confusion = sum(video.confusion for video in videos.values())
        num_tracks = sum(video.num_tracks for video in videos.values())
        association = sum(video.association for video in videos.values()) / num_tracks if num_tracks else float('nan')
        quality = mean_iou(np.asarray(confusion)) if videos else float('nan')
        return {'STQ': 100 * float(np.sqrt(association * quality)), 'AQ': 100 * association, 'SQ': 100 * quality}


def mean_iou(confusion: np.ndarray) -> float:
    """Mean IoU in [0, 1] over the classes that occur in a confusion matrix (K, K), or with void (K, K + 1), or NaN."""
    common = confusion.diagonal()
    union = confusion.sum(1) + confusion[:, : len(confusion)].sum(0) - common
    occurs = union > 0
    return float((common[occurs] / union[occurs]).mean()) if occurs.any() else float('nan')
