"""Make the targets of a clip: one per instance, segment or class, with a mask in each frame."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from mmdet.structures import DetDataSample
from torch import Tensor

from eomt_mm.core.targets import check_labels, pad_masks
from eomt_mm.models.sample_targets import missing_annotation, source_of

Size = tuple[int, int]
FIELDS = ('labels', 'instances_ids', 'masks')


@dataclass(frozen=True)
class ClipTarget:
    """The N targets of a clip of T frames, each with a pixel in at least one frame.

    Attributes:
        labels: (N,), int64.
        masks: (T, N, H, W), bool; void belongs to no mask.
        first_frames: (N,), int64, on the CPU: frame in which each target is matched. For instances, the first frame
            that shows it; 0 for segments and classes, which the published training treats as present in every frame.
        shown: (T, N), bool, on the CPU: whether a target has a pixel in a frame.
    """

    labels: Tensor
    masks: Tensor
    first_frames: Tensor
    shown: Tensor


def clip_target(
    frames: Sequence[DetDataSample],
    num_classes: int,
    size: Size,
    by_appearance: bool = True,
    device: torch.device | str = 'cpu',
) -> ClipTarget:
    """Make the targets of a clip on the CPU, where the masks of pipelines are, to avoid synchronising with a device.

    Args:
        frames: T samples with ``gt_instances``: ``labels`` (n,), ``instances_ids`` (n,), constant throughout the clip,
            and ``masks`` (n, h, w), which may be empty. n may differ between frames.
        num_classes: number of classes.
        size: (H, W) of the input; masks are padded to it.
        by_appearance: match each target in the first frame that shows it; False: match all in the first frame.
        device: of labels and masks.

    Raises:
        ValueError: a frame has no ground truth, a label is outside the classes, an id occurs twice in a frame, or masks
            are larger than the input.
    """
    parts = [_shown_tracks(frame) for frame in frames]
    for frame, (labels, _, _) in zip(frames, parts, strict=True):
        check_labels(labels, num_classes, source_of(frame))
    every_id = torch.cat([ids for _, ids, _ in parts]).unique()
    masks = torch.zeros(len(frames), len(every_id), *size, dtype=torch.bool)
    shown = torch.zeros(len(frames), len(every_id), dtype=torch.bool)
    labels = torch.zeros(len(every_id), dtype=torch.long)
    for t in reversed(range(len(frames))):  # the first frame that shows a target sets its label
        frame_labels, ids, frame_masks = parts[t]
        rows = torch.searchsorted(every_id, ids)
        masks[t, rows] = pad_masks(dict(masks=frame_masks), size)['masks']
        shown[t, rows], labels[rows] = True, frame_labels
    first = shown.int().argmax(0) if by_appearance else torch.zeros_like(labels)
    return ClipTarget(labels.to(device), masks.to(device), first, shown)


def num_clip_targets(frames: Sequence[DetDataSample]) -> int:
    """Number N of targets that :func:`clip_target` makes; 0 if frames are not annotated."""
    if not all(map(_is_annotated, frames)):
        return 0
    found: set[int] = set()
    for frame in frames:
        ids = torch.as_tensor(frame.gt_instances.instances_ids).cpu()
        found.update(ids[_have_pixels(_as_bool(frame.gt_instances.masks))].tolist())
    return len(found)


def _shown_tracks(frame: DetDataSample) -> tuple[Tensor, Tensor, Tensor]:
    """Labels (n,), ids (n,) and masks (n, h, w) of a frame, without empty masks."""
    if not _is_annotated(frame):
        raise ValueError(missing_annotation(frame, f'tracks (gt_instances with {", ".join(FIELDS)})'))
    instances = frame.gt_instances
    masks = _as_bool(instances.masks)
    shown = _have_pixels(masks)
    labels, ids = (
        torch.as_tensor(values).cpu().long()[shown] for values in (instances.labels, instances.instances_ids)
    )
    if len(ids.unique()) < len(ids):
        raise ValueError(
            f'ground truth of {source_of(frame)} holds an id more than once among {sorted(ids.tolist())}: each '
            f'instance of a frame needs an id of its own, the same through the video'
        )
    return labels, ids, masks[shown]


def _is_annotated(frame: DetDataSample) -> bool:
    return 'gt_instances' in frame and all(name in frame.gt_instances for name in FIELDS)


def _as_bool(masks: Any) -> Tensor:
    """Convert mmdet's masks, arrays or tensors to (n, h, w), bool, on the CPU."""
    if isinstance(masks, Tensor):
        return masks.cpu().bool()
    return torch.from_numpy(masks if isinstance(masks, np.ndarray) else masks.to_ndarray()).bool()


def _have_pixels(masks: Tensor) -> Tensor:
    """Whether masks (n, h, w), bool, have pixels: (n,), bool. On a CPU, torch reduces bytes much faster than bools."""
    return masks.view(torch.uint8).flatten(1).amax(1).bool()
