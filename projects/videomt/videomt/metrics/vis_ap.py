"""AP and AR of tracks by the rules of YouTube-VIS (Yang et al., "Video Instance Segmentation", ICCV 2019, section 3.2).

A predicted track is a true positive if its IoU with a ground-truth track is large enough; intersection and union are
summed over all frames of the video. Otherwise the rules are COCO's, and COCO's evaluation does the matching and
averaging.
"""

import json
import logging
import zipfile
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmdet.structures import DetDataSample
from mmengine.logging import print_log
from pycocotools import mask as mask_api

from eomt_mm.annotations.masks import RLE, areas, as_text, check_runs
from eomt_mm.evaluation.ap_counting import ImageMatches, average_ap, encode_masks, match_by_class
from eomt_mm.evaluation.result_files import folder_of_results
from eomt_mm.fileio.writing import write_whole
from eomt_mm.registry import METRICS
from videomt.metrics.video_metric import VideoMetric, frame_ground_truth, name_of

# Ranges of a track's mean area over the frames in which it is visible, in pixels; as in the data set's own evaluation.
AREAS: list[tuple[float, float]] = [(0, 1e10), (0, 128**2), (128**2, 256**2), (256**2, 1e10)]
MAX_DETS = (1, 10, 100)
KEYS = ('AP', 'AP50', 'AP75', 'AP_s', 'AP_m', 'AP_l', 'AR@1', 'AR@10')


@dataclass
class Tube:
    """A track: statistics of its masks, and the masks themselves if results are written."""

    labels: Counter = field(default_factory=Counter)
    scores: list[float] = field(default_factory=list)
    areas: list[int] = field(default_factory=list)  # of the frames in which it is visible
    rles: dict[int, RLE] = field(default_factory=dict)
    is_crowd: bool = False

    @property
    def label(self) -> int:
        """Most frequent label."""
        return int(self.labels.most_common(1)[0][0])

    @property
    def score(self) -> float:
        """Mean score over the frames that have one."""
        return float(np.mean(self.scores))

    @property
    def mean_area(self) -> float:
        """Mean area in pixels over the frames in which it is visible."""
        return float(np.mean(self.areas)) if self.areas else 0.0


@dataclass
class Tracks:
    """Counts of a video: predicted and ground-truth tracks by id, and the common pixels of their pairs."""

    predicted: defaultdict[int, Tube] = field(default_factory=lambda: defaultdict(Tube))
    true: defaultdict[Any, Tube] = field(default_factory=lambda: defaultdict(Tube))
    common: Counter = field(default_factory=Counter)
    video_id: Any = None
    num_frames: int = 0

    def add(
        self,
        predicted: list[tuple[int, int, float, RLE]],
        true: list[tuple[Any, int, RLE, bool]],
        keep: bool,
    ) -> None:
        """Add a frame: (id, label, score, mask) of predictions, (id, label, mask, is crowd) of ground truth."""
        rles = [one[3] for one in predicted], [one[2] for one in true]
        pred_areas, true_areas = areas(rles[0]), areas(rles[1])
        for (id_, label, score, rle), area in zip(predicted, pred_areas.tolist(), strict=True):
            tube = self.predicted[id_]
            tube.labels[label] += 1
            tube.scores.append(score)
            tube.areas += [area] if area else []
            if keep and area:
                tube.rles[self.num_frames] = rle
        for (id_, label, _, is_crowd), area in zip(true, true_areas.tolist(), strict=True):
            tube = self.true[id_]
            tube.labels[label] += 1
            tube.areas += [area] if area else []
            tube.is_crowd = is_crowd
        if predicted and true:
            iou = mask_api.iou(rles[0], rles[1], [0] * len(true))
            # Solve i / (a + b - i) = iou for i; rounding removes the error of the division.
            pixels = np.rint(iou * (pred_areas[:, None] + true_areas) / (1 + iou)).astype(np.int64)
            for row, column in np.argwhere(pixels).tolist():
                self.common[predicted[row][0], true[column][0]] += int(pixels[row, column])
        self.num_frames += 1


@METRICS.register_module()
class VideoInstanceAP(VideoMetric):
    """AP and AR of tracks, in percent: AP@[.5:.95], AP50, AP75, by size (AP_s, AP_m, AP_l), AR@1 and AR@10.

    NaN if there is nothing to average over. Sizes are those of the data set's own evaluation, by a track's mean area
    where it is visible: below 128^2 pixels, below 256^2 pixels, and above. Predictions with the same ``instances_id``
    form a track; its score is the mean over its frames, its label the most frequent one.

    Args:
        out_dir: folder for ``results.json`` and ``results.zip`` (which contains it), in the format of the servers of
            YouTube-VIS and OVIS, written when all videos are done. Category ids are ``category_ids`` of dataset_meta,
            or label + 1.
        format_only: write result files, do not evaluate (test sets); needs ``out_dir``.
        prefix: prefix of the metric's keys.
        collect_device, collect_dir: see mmengine's `BaseMetric`.

    Raises:
        ValueError: ``format_only`` without ``out_dir``.
    """

    default_prefix = 'vis'

    def __init__(
        self,
        out_dir: str | None = None,
        format_only: bool = False,
        prefix: str | None = 'vis',
        collect_device: str = 'cpu',
        collect_dir: str | None = None,
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix, collect_dir=collect_dir)
        self.out_dir = folder_of_results(out_dir, format_only)
        self.format_only = format_only

    def start_video(self, frame: DetDataSample) -> Tracks:
        return Tracks(video_id=frame.metainfo['video_id'])

    def add_frame(self, counts: Tracks, frame: DetDataSample) -> None:
        """Count a frame: ``pred_track_instances`` with ``instances_id``, ``labels``, ``scores``, ``masks``."""
        found = frame.get('pred_track_instances')
        if found is None or 'masks' not in found:
            raise ValueError(f'{name_of(frame)} has no pred_track_instances.masks: AP of tracks needs a VIS model')
        masks = found.masks
        whose = f'a prediction of {name_of(frame)}'
        is_runs = isinstance(masks, list)
        rles = (
            [check_runs(mask, whose) for mask in masks]
            if is_runs
            else encode_masks(torch.as_tensor(masks).cpu().numpy())
        )
        size = tuple(frame.metainfo['ori_shape'][:2])
        others = sorted({tuple(rle['size']) for rle in rles} - {size})
        if others:
            raise ValueError(f'masks of {name_of(frame)} are {others}, the frame {size} (height, width): rescale them')
        ids, labels, scores = (
            torch.as_tensor(found[key]).cpu().tolist() for key in ('instances_id', 'labels', 'scores')
        )
        true = [] if self.format_only else _true_tracks(frame, size)
        counts.add(list(zip(ids, labels, scores, rles, strict=True)), true, keep=self.out_dir is not None)

    def end_video(self, counts: Tracks) -> tuple[ImageMatches | None, list[str]]:
        """Return the video's matches, and one line of the result file per track."""
        lines = [] if self.out_dir is None else self._lines(counts)
        return None if self.format_only else match_tracks(counts), lines

    def _lines(self, counts: Tracks) -> list[str]:
        meta = self.dataset_meta or {}
        category_ids = meta.get('category_ids') or range(1, len(meta['classes']) + 1)
        return [
            json.dumps(
                {
                    'video_id': counts.video_id,
                    'score': tube.score,
                    'category_id': category_ids[tube.label],
                    'segmentations': [
                        as_text(tube.rles[k]) if k in tube.rles else None for k in range(counts.num_frames)
                    ],
                }
            )
            for tube in counts.predicted.values()
        ]

    def average(self, videos: Mapping[Any, tuple[ImageMatches | None, list[str]]]) -> dict[str, float]:
        if self.out_dir is not None:
            lines = [line for _, lines_of_video in videos.values() for line in lines_of_video]
            write_vis_results(self.out_dir, lines)
            print_log(f'{len(lines)} tracks of {len(videos)} videos are in {self.out_dir}', logger='current')
        if self.format_only:
            return {}
        matches = [found for found, _ in videos.values() if found is not None]
        if not any(found.num_true.any() for found in matches):
            print_log(
                f'none of {len(videos)} videos has annotations, so AP and AR are NaN: the public validation files of '
                f'YouTube-VIS and OVIS have none. tools/test.py --out FOLDER --format-only writes the server files',
                logger='current',
                level=logging.WARNING,
            )
        else:
            num_true = np.zeros(len(self.dataset_meta['classes']), np.int64)
            for found in matches:
                num_true[found.labels] += found.num_true[0]
            self.warn_once.absent_classes(self.dataset_meta['classes'], num_true.tolist(), len(matches), 'videos')
        stats = average_ap(matches, len(self.dataset_meta['classes']), MAX_DETS).stats
        return {
            key: float('nan') if value < 0 else round(100 * float(value), 10)
            for key, value in zip(KEYS, stats, strict=False)
        }


def _true_tracks(frame: DetDataSample, size: tuple[int, int]) -> list[tuple[Any, int, RLE, bool]]:
    """Id, label, mask and is crowd of each ground-truth instance of a frame."""
    true = frame_ground_truth(frame, size)
    rles = encode_masks(true.masks)
    columns = (true.ids.tolist(), true.labels.tolist(), rles, true.is_crowd.tolist())
    return list(zip(*columns, strict=True))


def match_tracks(tracks: Tracks) -> ImageMatches:
    """Match the tracks of a video as COCO matches the instances of an image."""
    iou = track_iou(tracks)
    true = [(tube.label, tube.mean_area, tube.is_crowd) for tube in tracks.true.values()]
    predicted = [(tube.label, tube.mean_area, tube.score) for tube in tracks.predicted.values()]
    return match_by_class(true, predicted, lambda rows, columns: iou[np.ix_(rows, columns)], MAX_DETS, AREAS)


def track_iou(tracks: Tracks) -> np.ndarray:
    """Compute the IoU of tracks over all frames, (P, G), float64, in the order of the dictionaries."""
    pred_areas, true_areas = (
        np.array([sum(tube.areas) for tube in side.values()], np.int64) for side in (tracks.predicted, tracks.true)
    )
    common = np.zeros((len(pred_areas), len(true_areas)), np.int64)
    rows = {id_: place for place, id_ in enumerate(tracks.predicted)}
    columns = {id_: place for place, id_ in enumerate(tracks.true)}
    for (predicted, true), pixels in tracks.common.items():
        common[rows[predicted], columns[true]] = pixels
    union = pred_areas[:, None] + true_areas - common
    iou: np.ndarray = common / np.maximum(union, 1)
    return iou


def write_vis_results(folder: Path, lines: list[str]) -> None:
    """Write ``results.json``, and ``results.zip`` with it; each gets its final name when it is complete."""
    content = ('[\n' + ',\n'.join(lines) + '\n]\n').encode()
    write_whole(folder / 'results.json', content)
    packed = BytesIO()
    with zipfile.ZipFile(packed, 'w', zipfile.ZIP_DEFLATED) as archive:
        archive.writestr('results.json', content)
    write_whole(folder / 'results.zip', packed.getvalue())
