"""Frames with truth and predictions for the tests of video metrics."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.structures import InstanceData, PixelData

Instance = tuple[int, int, np.ndarray]  # id, label, mask (H, W)


def instances(found: Sequence[Instance], size: tuple[int, int]) -> InstanceData:
    """As mmdet's pipelines make them."""
    masks = [mask.astype(np.uint8) for _, _, mask in found]
    return InstanceData(
        instances_ids=torch.tensor([id_ for id_, _, _ in found], dtype=torch.long),
        labels=torch.tensor([label for _, label, _ in found], dtype=torch.long),
        masks=BitmapMasks(masks, *size),
    )


def true_frame(
    video_id: Any, frame_id: int, size: tuple[int, int], truth: Sequence[Instance], crowds: Sequence[Instance] = ()
) -> DetDataSample:
    """A frame with ground truth."""
    path = f'data/video_{video_id}/{frame_id:05d}.jpg'
    meta = dict(video_id=video_id, frame_id=frame_id, ori_shape=size, img_path=path)
    frame = DetDataSample(metainfo=meta)
    frame.gt_instances = instances(truth, size)
    frame.ignored_instances = instances(crowds, size)
    return frame


def segments(true_map: np.ndarray) -> list[Instance]:
    """Instances of a map (H, W) of label + 1000 * id, -1 = void."""
    return [(int(code) // 1000, int(code) % 1000, true_map == code) for code in np.unique(true_map) if code >= 0]


def panoptic_frames(video_id: Any, true: Sequence[np.ndarray], predicted: Sequence[np.ndarray]) -> list[DetDataSample]:
    """A video of maps (H, W) of label + 1000 * id; in the true ones -1 is void."""
    frames = []
    for frame_id, (true_map, panoptic) in enumerate(zip(true, predicted, strict=True)):
        frame = true_frame(video_id, frame_id, true_map.shape, segments(true_map))
        frame.pred_panoptic_seg = PixelData(sem_seg=torch.from_numpy(panoptic.astype(np.int32))[None])
        frames.append(frame)
    return frames


def semantic_frames(video_id: Any, true: Sequence[np.ndarray], predicted: Sequence[np.ndarray]) -> list[DetDataSample]:
    """A video of label maps (H, W); in the true ones -1 is void."""
    frames = []
    for frame_id, (true_map, labels) in enumerate(zip(true, predicted, strict=True)):
        frame = true_frame(video_id, frame_id, true_map.shape, segments(true_map))
        frame.pred_sem_seg = PixelData(sem_seg=torch.from_numpy(labels.astype(np.uint8))[None])
        frames.append(frame)
    return frames


def score(metric: Any, videos: Sequence[Sequence[DetDataSample]], framewise: bool = False) -> dict[str, float]:
    """Metrics of videos, given whole or frame by frame."""
    for frames in videos:
        for part in [[frame] for frame in frames] if framewise else [frames]:
            metric.process(None, [{'video_data_samples': list(part)}])
    return metric.evaluate(len(videos))


def blocks(rng: np.random.Generator, values: Sequence[int], size: tuple[int, int] = (12, 16)) -> np.ndarray:
    """A map (H, W) of random values in blocks of 4 x 4."""
    coarse = rng.choice(np.array(values), size=(size[0] // 4, size[1] // 4))
    return coarse.repeat(4, axis=0).repeat(4, axis=1)


def moving(rng: np.random.Generator, values: Sequence[int], num_frames: int, change: float = 0.3) -> list[np.ndarray]:
    """Maps of which a part changes from frame to frame."""
    found = [blocks(rng, values)]
    while len(found) < num_frames:
        changed = rng.random(found[-1].shape) < change
        found.append(np.where(changed, blocks(rng, values), found[-1]))
    return found
