"""From logits to semantic scores, instances and panoptic segments: the published rules, as pure functions.

Queries are chosen by their class logits *before* their masks are resized: only masks that can appear in the result
are ever brought to the image's size.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from eomt_mm.models.geometry import Size, resize

# Maps (N, h, w) mask logits over the input to (N, H, W) over the image: the inverse of a geometry.
ToImage = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Segment:
    """One segment of a panoptic map.

    Attributes:
        id: value in the map, from 1.
        label: class index.
        score: class probability of its query; for merged stuff that of the first one.
    """

    id: int
    label: int
    score: float


@dataclass(frozen=True)
class Instances:
    """Instances, unsorted: labels (N,) int64, scores (N,) in [0, 1], masks (N, H, W) bool."""

    labels: Tensor
    scores: Tensor
    masks: Tensor


def semantic_scores(class_logits: Tensor, mask_logits: Tensor, size: Size) -> Tensor:
    """Class scores of every pixel: sum over queries of p(class) * p(mask) (MaskFormer, section 3.4).

    Args:
        class_logits: (B, Q, K + 1).
        mask_logits: (B, Q, h, w), resized to ``size`` before the sigmoid.
        size: of the input or window.

    Returns:
        (B, K, *size), at least 0; not normalised.
    """
    probs = class_logits.float().softmax(-1)[..., :-1]
    masks = resize(mask_logits.float(), size).sigmoid()
    return torch.einsum('bqk,bqhw->bkhw', probs, masks)


def instance_prediction(
    class_logits: Tensor, mask_logits: Tensor, to_image: ToImage, max_per_image: int = 100
) -> Instances:
    """The ``max_per_image`` best (query, class) pairs; a query may appear under several classes.

    Mask: logit > 0. Score: class probability times the mean mask probability inside the mask (Mask2Former,
    appendix). No threshold and no suppression, as AP wants it.

    Args:
        class_logits: (Q, K + 1).
        mask_logits: (Q, h, w).
        to_image: brings mask logits to the image's size.
        max_per_image: number of instances.
    """
    num_classes = class_logits.shape[-1] - 1
    probs = class_logits.float().softmax(-1)[:, :-1].flatten()
    scores, pairs = probs.topk(min(max_per_image, len(probs)), sorted=False)
    queries, position = (pairs // num_classes).unique(return_inverse=True)
    logits = to_image(mask_logits[queries].float())  # each chosen query once
    masks = logits > 0
    quality = (logits.sigmoid() * masks).sum((1, 2)) / (masks.sum((1, 2)) + 1e-6)
    return Instances(labels=pairs % num_classes, scores=scores * quality[position], masks=masks[position])


def panoptic_prediction(
    class_logits: Tensor,
    mask_logits: Tensor,
    to_image: ToImage,
    num_things: int,
    score_thr: float = 0.8,
    overlap_thr: float = 0.8,
) -> tuple[Tensor, list[Segment]]:
    """Non-overlapping segments (MaskFormer, section 3.4, with the thresholds that EoMT publishes).

    A query is kept where its best class is one with a probability above ``score_thr``. Each pixel goes to the kept
    query of largest p(class) * p(mask); a query's segment is the part of these pixels with p(mask) >= 0.5, and it is
    dropped where the pixels it won are fewer than ``overlap_thr`` of those with p(mask) >= 0.5. Stuff of one class
    is merged.

    Args:
        class_logits: (Q, K + 1).
        mask_logits: (Q, h, w).
        to_image: brings mask logits to the image's size.
        num_things: classes below this index are things.
        score_thr: in [0, 1].
        overlap_thr: in [0, 1].

    Returns:
        map (H, W) int32 of segment ids, 0 = void, and the segments.
    """
    num_classes = class_logits.shape[-1] - 1
    scores, labels = class_logits.float().softmax(-1).max(-1)
    kept = (labels != num_classes) & (scores > score_thr)
    scores, labels = scores[kept], labels[kept]
    probs = to_image(mask_logits[kept].float()).sigmoid()  # (N, H, W)
    segment_map = torch.zeros(probs.shape[-2:], dtype=torch.int32, device=probs.device)
    segments: list[Segment] = []
    if len(probs) == 0:
        return segment_map, segments

    winner = (scores[:, None, None] * probs).argmax(0)  # (H, W)
    inside = probs >= 0.5
    won_and_inside = inside.gather(0, winner[None])[0]
    won_area = winner.flatten().bincount(minlength=len(probs)).tolist()
    final_area = winner[won_and_inside].bincount(minlength=len(probs)).tolist()
    inside_area = inside.sum((1, 2)).tolist()

    new_ids = [0] * len(probs)
    stuff_ids: dict[int, int] = {}
    for k, (label, score) in enumerate(zip(labels.tolist(), scores.tolist(), strict=True)):
        if min(won_area[k], inside_area[k], final_area[k]) == 0 or won_area[k] / inside_area[k] < overlap_thr:
            continue
        if label in stuff_ids:
            new_ids[k] = stuff_ids[label]
            continue
        new_ids[k] = len(segments) + 1
        segments.append(Segment(new_ids[k], label, score))
        if label >= num_things:
            stuff_ids[label] = new_ids[k]
    ids = torch.tensor(new_ids, dtype=torch.int32, device=probs.device)
    return torch.where(won_and_inside, ids[winner], segment_map), segments
