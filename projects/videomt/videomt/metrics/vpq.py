"""Video panoptic quality (Kim et al., "Video Panoptic Segmentation", CVPR 2020, section 4)."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from mmdet.structures import DetDataSample

from eomt_mm.evaluation.pq_counting import average_pq, count_segments
from eomt_mm.evaluation.result_files import folder_of_results
from eomt_mm.registry import METRICS
from videomt.metrics.overlaps import Overlaps
from videomt.metrics.panoptic_results import PanopticResults, VideoFiles
from videomt.metrics.video_metric import VideoMetric, frame_ground_truth, segment_map, things_of, warn_of_short_videos

Counts = tuple[Overlaps, VideoFiles]


def count_tubes(overlap: np.ndarray, true: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Count the tubes of one window by the rules of PQ, with tubes in place of segments.

    Args:
        overlap: (G + 1, P + 1), pixels, row and column 0 void.
        true: (G,), labels; tubes without a pixel in the window do not count.
        predicted: (P,), labels, the same.

    Returns:
        (R, 5), as from `count_panoptic`.
    """
    rows, columns = np.flatnonzero(overlap[1:].sum(axis=1)), np.flatnonzero(overlap[:, 1:].sum(axis=0))
    shown = overlap[np.ix_([0, *(rows + 1)], [0, *(columns + 1)])]
    return count_segments(shown, true[rows], np.zeros(len(rows), bool), predicted[columns])


@METRICS.register_module()
class VideoPanopticQuality(VideoMetric):
    """VPQ over all classes, things (_th) and stuff (_st), in percent; and VPQ<k> of each tube length.

    VPQ<k> is the PQ of tubes of k frames, counted over all windows of k consecutive frames of all videos; a video
    shorter than k has no window. VPQ is the mean over the lengths. NaN if there is no class to average over.

    ``thing_classes`` of dataset_meta states which ``classes`` are things. Predictions are ``pred_panoptic_seg.sem_seg``
    (1, H, W), label + 1000 * id; ground truth is in ``gt_instances``, one instance per segment.

    Args:
        tube_lengths: in frames.
        out_dir: folder for ``pan_pred`` and ``pred.json`` in the format of VIPSeg's evaluation; see `PanopticResults`.
            With several nodes, it must be on shared storage.
        format_only: write result files, do not evaluate (test sets); needs ``out_dir``.
        prefix: prefix of the metric's keys.
        collect_device, collect_dir: see mmengine's `BaseMetric`.

    Raises:
        ValueError: ``tube_lengths`` is empty or has a length below 1, or ``format_only`` without ``out_dir``.
    """

    default_prefix = 'vps'

    def __init__(
        self,
        tube_lengths: Sequence[int] = (1, 2, 4, 6, 8),
        out_dir: str | None = None,
        format_only: bool = False,
        prefix: str | None = 'vps',
        collect_device: str = 'cpu',
        collect_dir: str | None = None,
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix, collect_dir=collect_dir)
        if not tube_lengths or min(tube_lengths) < 1:
            raise ValueError(f'tube_lengths={tube_lengths}: give numbers of frames from 1 on')
        self.tube_lengths = tuple(tube_lengths)
        self.format_only = format_only
        folder = folder_of_results(out_dir, format_only)
        self._files = None if folder is None else PanopticResults(folder)

    def start_video(self, frame: DetDataSample) -> Counts:
        return Overlaps(len(things_of(self.dataset_meta))), VideoFiles(str(frame.metainfo['video_id']))

    def add_frame(self, counts: Counts, frame: DetDataSample) -> None:
        overlaps, files = counts
        panoptic = segment_map(frame, 'pred_panoptic_seg')
        if not self.format_only:
            overlaps.add(frame_ground_truth(frame, panoptic.shape), panoptic)
        if self._files is not None:
            self._files.write(files, frame, panoptic, self.dataset_meta)

    def end_video(self, counts: Counts) -> tuple[list[np.ndarray], VideoFiles]:
        """Return the counts (K, 5) of each tube length, and the video's result files."""
        overlaps, files = counts
        num_classes = overlaps.num_classes
        true, predicted = overlaps.true[:, 0], overlaps.predicted[:, 0]
        rows = []
        for length in self.tube_lengths:
            total = np.zeros((num_classes, 4))
            for window in overlaps.windows(length):
                counted = count_tubes(window, true, predicted)
                total[counted[:, 0].astype(np.int64)] += counted[:, 1:]
            rows.append(np.column_stack([np.arange(num_classes), total]))
        return rows, files

    def average(self, videos: Mapping[Any, tuple[list[np.ndarray], VideoFiles]]) -> dict[str, float]:
        if self._files is not None:
            self._files.finish([files for _, files in videos.values()])
        if self.format_only:
            return {}
        things = things_of(self.dataset_meta)
        metrics: dict[str, float] = {}
        for place, length in enumerate(self.tube_lengths):
            rows = np.concatenate([np.zeros((0, 5)), *(counts[place] for counts, _ in videos.values())])
            averages, _ = average_pq(rows, things)
            for group, suffix in (('All', ''), ('Things', '_th'), ('Stuff', '_st')):
                metrics[f'VPQ{length}{suffix}'] = 100 * averages[group]['pq']
            if place == 0:
                num_true = [rows[rows[:, 0] == label][:, [2, 4]].sum() for label in things]
                self.warn_once.absent_classes(self.dataset_meta['classes'], num_true, len(videos), 'videos')
        warn_of_short_videos(metrics, 'VPQ', self.tube_lengths)
        means = {
            f'VPQ{suffix}': float(np.mean([metrics[f'VPQ{length}{suffix}'] for length in self.tube_lengths]))
            for suffix in ('', '_th', '_st')
        }
        return {**means, **metrics}
