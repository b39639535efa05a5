"""Base class of video metrics: group frames into videos, gather videos from all processes, read ground truth."""

import logging
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import torch
from mmdet.structures import DetDataSample
from mmengine.dist import all_gather_object, broadcast_object_list, is_main_process
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log

from eomt_mm.evaluation.image_metric import WarnOnce


class FrameGroundTruth(NamedTuple):
    """Ground truth of a frame: ids (N,), labels (N,), int64, masks (N, H, W), is_crowd (N,), bool; crowds come last."""

    ids: np.ndarray
    labels: np.ndarray
    masks: np.ndarray
    is_crowd: np.ndarray


class VideoMetric(BaseMetric):
    """A metric that counts frame by frame and keeps one record per video.

    A sample may be a whole video or one frame of it, as long as the frames of a video come in order and in one process,
    as with mmdet's samplers. A video that comes twice (padded samplers) counts once. Subclasses define the record.
    """

    def __init__(self, collect_device: str = 'cpu', prefix: str | None = None, collect_dir: str | None = None) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix, collect_dir=collect_dir)
        self._counts: Any = None
        self._place = (None, -1)  # video_id and frame_id of the previous frame
        self._num_frames = 0
        self.warn_once = WarnOnce()

    def start_video(self, frame: DetDataSample) -> Any:
        """Return the initial counts of a video, before its first frame."""
        raise NotImplementedError

    def add_frame(self, counts: Any, frame: DetDataSample) -> None:
        """Add a frame to the counts."""
        raise NotImplementedError

    def end_video(self, counts: Any) -> Any:
        """Return the record to keep of a video; it must be small and picklable."""
        raise NotImplementedError

    def average(self, videos: Mapping[Any, Any]) -> dict[str, float]:
        """Compute the metrics over all videos; records by video id, ascending."""
        raise NotImplementedError

    def process(self, data_batch: Any, data_samples: Sequence[Mapping[str, Any]]) -> None:
        """Count the frames of a batch.

        Args:
            data_batch: not read.
            data_samples: each with ``video_data_samples``, frames with ``video_id`` and ``frame_id``.
        """
        for frame in chain.from_iterable(sample['video_data_samples'] for sample in data_samples):
            video_id, frame_id = frame.metainfo['video_id'], frame.metainfo['frame_id']
            if self._place[0] != video_id or frame_id <= self._place[1]:
                self._close()
                self._counts = self.start_video(frame)
            self.add_frame(self._counts, frame)
            self._place = (video_id, frame_id)
            self._num_frames += 1

    def _close(self) -> None:
        if self._num_frames:
            self.results.append((self._place[0], self._num_frames, self.end_video(self._counts)))
        self._counts, self._place, self._num_frames = None, (None, -1), 0

    def evaluate(self, size: int) -> dict[str, float]:
        """Compute the metrics over the videos of all processes.

        Args:
            size: unused: processes may have different numbers of videos, and mmengine would drop some of them.
        """
        self._close()
        results = list(chain.from_iterable(all_gather_object(self.results)))
        self.results.clear()
        metrics: list[Any] = [None]
        if is_main_process():
            metrics = [self.compute_metrics(results)]
            if self.prefix:
                metrics = [{f'{self.prefix}/{key}': value for key, value in metrics[0].items()}]
        broadcast_object_list(metrics)
        found: dict[str, float] = metrics[0]
        return found

    def compute_metrics(self, results: list[tuple[Any, int, Any]]) -> dict[str, float]:
        """Average over all videos; if a video came more than once, its longest record counts."""
        by_id = {id_: record for id_, _, record in sorted(results, key=lambda result: result[1])}
        return self.average(dict(sorted(by_id.items(), key=lambda item: (isinstance(item[0], str), item[0]))))


def warn_of_short_videos(metrics: Mapping[str, float], prefix: str, lengths: Sequence[int]) -> None:
    """Warn if a metric over clips (``prefix`` and clip length) is NaN because no video is long enough."""
    missing = [length for length in lengths if np.isnan(metrics[f'{prefix}{length}'])]
    if missing:
        print_log(
            f'NaN: {", ".join(f"{prefix}{length}" for length in missing)}; no video has so many annotated frames',
            logger='current',
            level=logging.WARNING,
        )


def things_of(meta: Mapping[str, Any] | None) -> dict[int, bool]:
    """Map each label to whether it is a thing, from ``classes`` and ``thing_classes`` of ``dataset_meta``.

    Raises:
        ValueError: either is missing.
    """
    if not meta or not meta.get('classes') or 'thing_classes' not in meta:
        raise ValueError(
            f'dataset_meta has {sorted(meta or ())}: give "classes" and "thing_classes", which panoptic metrics need'
        )
    return {label: name in meta['thing_classes'] for label, name in enumerate(meta['classes'])}


def frame_ground_truth(frame: DetDataSample, size: tuple[int, int]) -> FrameGroundTruth:
    """Read the ground truth of a frame, from ``gt_instances`` and, for crowds, ``ignored_instances``.

    Args:
        frame: with ``instances_ids``, ``labels`` and ``masks`` (mmdet's BitmapMasks or PolygonMasks, or bool).
        size: (H, W) of the prediction.

    Raises:
        ValueError: the frame has no ground truth, or its masks have another size.
    """
    parts = [frame.get('gt_instances'), frame.get('ignored_instances')]
    keys = ('instances_ids', 'labels', 'masks')
    missing = [key for key in keys if parts[0] is None or key not in parts[0]]
    if missing:
        raise ValueError(
            f'{name_of(frame)} has no gt_instances.{", ".join(missing)}: load annotations with masks and instance ids '
            'in the test pipeline, after resizing'
        )
    parts = [part for part in parts if part is not None and 'masks' in part]
    ids, labels = (
        np.concatenate([torch.as_tensor(part[key]).cpu().numpy().astype(np.int64) for part in parts])
        for key in keys[:2]
    )
    masks = np.concatenate([_as_array(part.masks, size, frame) for part in parts])
    return FrameGroundTruth(ids, labels, masks, np.arange(len(ids)) >= len(parts[0].labels))


def name_of(frame: DetDataSample) -> str:
    """Describe a frame, for messages."""
    meta = frame.metainfo
    return f'frame {meta.get("frame_id")} of video {meta.get("video_id")} ({meta.get("img_path")})'


def segment_map(frame: DetDataSample, field: str) -> np.ndarray:
    """Read ``field.sem_seg`` of a frame as integers (H, W); raises ValueError for other shapes or types."""
    if field not in frame:
        raise ValueError(f'{name_of(frame)} has no {field}: the metric needs a model of another task')
    ids = frame.get(field).sem_seg.cpu().numpy()
    if ids.ndim != 3 or len(ids) != 1 or not np.issubdtype(ids.dtype, np.integer):
        raise ValueError(f'{field}.sem_seg of {name_of(frame)} has shape {ids.shape}, type {ids.dtype}: integers '
                         '(1, H, W) are needed')  # fmt: skip
    found: np.ndarray = ids[0]
    return found


def _as_array(masks: Any, size: tuple[int, int], frame: DetDataSample) -> np.ndarray:
    """Convert masks to an array (N, *size), bool."""
    array = masks.to_ndarray() if hasattr(masks, 'to_ndarray') else torch.as_tensor(masks).cpu().numpy()
    if len(array) == 0:
        return np.zeros((0, *size), bool)
    if array.shape[1:] != tuple(size):
        raise ValueError(
            f'masks of {name_of(frame)}: ground truth {array.shape[1:]}, prediction {tuple(size)} (height, width); '
            'give both at the original size: load annotations after resizing'
        )
    return array.astype(bool)
