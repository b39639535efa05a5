"""Ground truth of a clip: one target per instance, segment or class that occurs in it, with a mask in each frame."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from mmdet.structures import DetDataSample
from torch import Tensor

from eomt_mm.models.targets import check_labels, missing_annotation, pad_masks, source_of

Size = tuple[int, int]


@dataclass(frozen=True)
class ClipTarget:
    """What occurs in a clip of T frames: N targets, which have a pixel in at least one of them.

    Attributes:
        labels: (N,), int64.
        masks: (T, N, H, W), bool; void belongs to none.
        first_frames: (N,), int64, on the CPU: the frame in which each is matched, which is the first that shows it. 0
            for all segments and classes, whose ids the published training takes as present in every frame.
        in_last_frame: (N,), bool, on the CPU: whether the last frame shows it.
    """

    labels: Tensor
    masks: Tensor
    first_frames: Tensor
    in_last_frame: Tensor


def clip_target(
    frames: Sequence[DetDataSample], num_classes: int, size: Size, by_appearance: bool = True
) -> ClipTarget:
    """The target of a clip.

    Args:
        frames: T samples with ``gt_instances``: ``labels`` (n,), ``instances_ids`` (n,), the same through the clip, and
            ``masks`` (n, h, w), which may be empty. n differs from frame to frame.
        num_classes: number of classes.
        size: (H, W) of the input; masks are padded to it.
        by_appearance: match each target in the first frame that shows it; False: all of them in the first frame.

    Raises:
        ValueError: a frame has no ground truth, a label is outside the classes, or an id occurs twice in a frame.
    """
    parts = [_frame_masks(frame, size) for frame in frames]
    for frame, (labels, _, _) in zip(frames, parts, strict=True):
        check_labels(labels, num_classes, source_of(frame))
    device = parts[0][0].device
    every_id = torch.cat([ids for _, ids, _ in parts]).unique()
    masks = torch.zeros(len(frames), len(every_id), *size, dtype=torch.bool, device=device)
    labels = torch.zeros(len(every_id), dtype=torch.long, device=device)
    for t in reversed(range(len(frames))):  # the first frame that shows a target decides
        frame_labels, ids, frame_masks = parts[t]
        rows = torch.searchsorted(every_id, ids)
        masks[t, rows] = frame_masks
        labels[rows] = frame_labels
    visible = masks.flatten(2).any(2)  # (T, N)
    kept = visible.any(0)
    masks, labels, visible = masks[:, kept], labels[kept], visible[:, kept].cpu()
    first = visible.int().argmax(0) if by_appearance else torch.zeros(visible.shape[1], dtype=torch.long)
    return ClipTarget(labels, masks, first, visible[-1])


def num_clip_targets(frames: Sequence[DetDataSample]) -> int:
    """Number N of targets that :func:`clip_target` will make; 0 where it will refuse the frames."""
    found: set[int] = set()
    for frame in frames:
        instances = frame.get('gt_instances')
        if instances is None or 'masks' not in instances:
            return 0
        shown = _as_bool(instances.masks, torch.device('cpu')).flatten(1).any(1)
        found.update(
            id_ for id_, is_shown in zip(instances.instances_ids.tolist(), shown.tolist(), strict=True) if is_shown
        )
    return len(found)


def _frame_masks(frame: DetDataSample, size: Size) -> tuple[Tensor, Tensor, Tensor]:
    """Labels (n,), ids (n,) and padded masks (n, H, W) of what a frame shows; empty masks are left out."""
    instances = frame.get('gt_instances')
    if instances is None or 'masks' not in instances or 'instances_ids' not in instances:
        raise ValueError(missing_annotation(frame, 'tracks (gt_instances with masks and instances_ids)'))
    labels, ids = instances.labels.long(), torch.as_tensor(instances.instances_ids).long().to(instances.labels.device)
    masks = _as_bool(instances.masks, labels.device)
    shown = masks.flatten(1).any(1)
    labels, ids, masks = labels[shown], ids[shown], masks[shown]
    if len(ids.unique()) < len(ids):
        raise ValueError(
            f'ground truth of {source_of(frame)} holds an id more than once among {sorted(ids.tolist())}: each '
            f'instance of a frame needs an id of its own, the same through the video'
        )
    return labels, ids, pad_masks(dict(masks=masks), size)['masks']


def _as_bool(masks: Any, device: torch.device) -> Tensor:
    """mmdet's masks, arrays or tensors as (n, h, w) bool."""
    if isinstance(masks, Tensor):
        return masks.bool()
    if isinstance(masks, np.ndarray):
        return torch.from_numpy(masks).bool().to(device)
    found: Tensor = masks.to_tensor(torch.bool, device)
    return found
