"""Video consistency and IoU of semantic segmentation (Miao et al., "VSPW", CVPR 2021, section 5)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from mmdet.structures import DetDataSample
from mmengine.logging import print_log

from eomt_mm.evaluation.result_files import folder_of_results
from eomt_mm.fileio.images import encode_png
from eomt_mm.fileio.writing import write_whole
from eomt_mm.registry import METRICS
from videomt.metrics.panoptic_results import frame_file
from videomt.metrics.stq import mean_iou
from videomt.metrics.video_metric import (
    FrameGroundTruth,
    VideoMetric,
    frame_ground_truth,
    segment_map,
    warn_of_short_videos,
)


@dataclass
class Runs:
    """Number of consecutive frames, including the current one, in which each pixel has had its label, (H, W)."""

    labels: np.ndarray | None = None
    lengths: np.ndarray | None = None

    def add(self, labels: np.ndarray) -> np.ndarray:
        """Add the labels (H, W) of the next frame; return the lengths."""
        if self.labels is None or self.lengths is None:
            self.lengths = np.ones(labels.shape, np.int32)
        else:
            self.lengths = np.where(labels == self.labels, self.lengths + 1, 1)
        self.labels = labels
        return self.lengths


@dataclass
class VideoCounts:
    """Counts of a video.

    Attributes:
        confusion: (K, K), pixels by ground-truth and predicted class, without void.
        consistency: consistency of each clip by clip length, in the order in which clips end.
    """

    confusion: np.ndarray
    consistency: dict[int, list[float]]
    true_runs: Runs = field(default_factory=Runs)
    predicted_runs: Runs = field(default_factory=Runs)
    num_frames: int = 0

    def add(self, true: np.ndarray, predicted: np.ndarray) -> None:
        """Add the label maps (H, W) of a frame; ground-truth label K is void."""
        num_classes = len(self.confusion)
        seen = true < num_classes
        pairs = true[seen].astype(np.int64) * num_classes + predicted[seen]
        self.confusion += np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)
        self.num_frames += 1
        true_lengths, lengths = self.true_runs.add(true), self.predicted_runs.add(predicted)
        for length, found in self.consistency.items():
            if self.num_frames >= length:
                steady = true_lengths >= length
                num_steady = np.count_nonzero(steady)
                found.append(np.count_nonzero(steady & (lengths >= length)) / num_steady if num_steady else np.nan)


@METRICS.register_module()
class VideoConsistency(VideoMetric):
    """mVC<k> for clips of k frames, and mIoU, in percent; NaN if there is no clip or class to average over.

    Consistency of a clip: among the pixels that keep their ground-truth label over all its frames, the share that also
    keeps its predicted label, whether correct or not. Void counts as a label, as in the benchmark's own script. mVC is
    the mean over all clips of all videos; mIoU is computed over all pixels that are not void.

    Predictions are ``pred_sem_seg.sem_seg`` (1, H, W); ground truth is in ``gt_instances``, one per class.

    Args:
        clip_lengths: in frames, ascending.
        as_published: reproduce two bugs of the benchmark's script, for comparable numbers: the last clip of each video
            is skipped, and the mean of a length includes the clips of all shorter lengths.
        out_dir: folder for ``<video_id>/<frame>.png`` (H, W), uint8; each gets its final name when it is complete.
        label_ids: value of each class in these files, each in [0, 255]; None: ``category_ids`` of dataset_meta or, if
            it has none, the label.
        format_only: write result files, do not evaluate (test sets); needs ``out_dir``.
        prefix: prefix of the metric's keys.
        collect_device, collect_dir: see mmengine's `BaseMetric`.

    Raises:
        ValueError: arguments are out of range or contradict each other.
    """

    default_prefix = 'vss'

    def __init__(
        self,
        clip_lengths: Sequence[int] = (8, 16),
        as_published: bool = False,
        out_dir: str | None = None,
        label_ids: Sequence[int] | None = None,
        format_only: bool = False,
        prefix: str | None = 'vss',
        collect_device: str = 'cpu',
        collect_dir: str | None = None,
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix, collect_dir=collect_dir)
        if sorted(set(clip_lengths)) != list(clip_lengths) or min(clip_lengths, default=1) < 1:
            raise ValueError(f'clip_lengths={clip_lengths}: give ascending numbers of frames from 1 on')
        if label_ids is not None and not all(0 <= id_ <= 255 for id_ in label_ids):
            raise ValueError(f'label_ids={list(label_ids)}: values of an 8-bit file, in [0, 255]')
        self.clip_lengths = tuple(clip_lengths)
        self.as_published = as_published
        self.out_dir = folder_of_results(out_dir, format_only)
        self.format_only = format_only
        self.label_ids = label_ids

    def start_video(self, frame: DetDataSample) -> VideoCounts:
        num_classes = self._num_classes()
        return VideoCounts(np.zeros((num_classes, num_classes), np.int64), {k: [] for k in self.clip_lengths})

    def _num_classes(self) -> int:
        classes = (self.dataset_meta or {}).get('classes')
        if not classes:
            raise ValueError('dataset_meta has no "classes": the metric counts them')
        if self.label_ids is not None and len(classes) > len(self.label_ids):
            raise ValueError(f'label_ids has {len(self.label_ids)} entries for {len(classes)} classes: give one each')
        return len(classes)

    def add_frame(self, counts: VideoCounts, frame: DetDataSample) -> None:
        predicted = segment_map(frame, 'pred_sem_seg')
        num_classes = len(counts.confusion)
        if predicted.max(initial=0) >= num_classes:
            raise ValueError(f'a prediction has label {predicted.max()}, dataset_meta {num_classes} classes: give the '
                             'model the number of classes of the data set')  # fmt: skip
        if not self.format_only:
            counts.add(_label_map(frame_ground_truth(frame, predicted.shape), predicted.shape, num_classes), predicted)
        if self.out_dir is not None:
            values = self.label_ids or self.dataset_meta.get('category_ids') or range(num_classes)
            path = self.out_dir / str(frame.metainfo['video_id']) / frame_file(frame)
            write_whole(path, encode_png(np.array(values, np.uint8)[predicted], f'label map {path}'))

    def end_video(self, counts: VideoCounts) -> tuple[np.ndarray, dict[int, list[float]]]:
        """Return the confusion matrix, and the consistency of the clips of each length."""
        return counts.confusion, counts.consistency

    def average(self, videos: Mapping[Any, tuple[np.ndarray, dict[int, list[float]]]]) -> dict[str, float]:
        if self.out_dir is not None:
            print_log(f'label maps of {len(videos)} videos are in {self.out_dir}', logger='current')
        if self.format_only:
            return {}
        metrics: dict[str, float] = {}
        clips: list[float] = []
        for length in self.clip_lengths:
            found = [consistency[length] for _, consistency in videos.values()]
            of_length = [clip for of_video in found for clip in (of_video[:-1] if self.as_published else of_video)]
            clips = clips + of_length if self.as_published else of_length
            known = [clip for clip in clips if not np.isnan(clip)]
            metrics[f'mVC{length}'] = 100 * float(np.mean(known)) if known else float('nan')
        warn_of_short_videos(metrics, 'mVC', self.clip_lengths)
        confusion = sum((confusion for confusion, _ in videos.values()), np.zeros((1, 1), np.int64))
        return {**metrics, 'mIoU': 100 * mean_iou(confusion)}


def _label_map(true: FrameGroundTruth, size: tuple[int, ...], num_classes: int) -> np.ndarray:
    """Draw a label map (H, W); pixels of no instance or of a crowd are ``num_classes``."""
    labels = np.full(size, num_classes, np.int32)
    for label, mask, is_crowd in zip(true.labels, true.masks, true.is_crowd, strict=True):
        labels[mask] = num_classes if is_crowd else label
    return labels
