"""From logits to semantic scores, instances and panoptic segments: the published rules, as pure functions.

Queries are chosen by their class logits *before* their masks are resized: only masks that can appear in the result
are ever brought to the image's size. Large maps are made and used up in parts, which bounds the memory and lets a CPU
find them in its cache; only the order in which sums are rounded differs from computing them whole.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from eomt_mm.core.geometry import Size, resize

# Maps (N, h, w) mask logits over the input to (N, H, W) over the image: the inverse of a geometry.
ToImage = Callable[[Tensor], Tensor]

# Parts of 8 to 16 MB at usual sizes: beyond 32 MB, glibc has the kernel map and clear new memory for every tensor.
MAPS_AT_ONCE = 8
STRIP_BYTES = 2**23


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
    probs = class_logits.float().softmax(-1)[..., :-1].mT  # (B, K, Q)
    scores = probs.new_empty(*probs.shape[:2], *size)
    for image_scores, image_probs, masks in zip(scores, probs, mask_logits, strict=True):
        for top, strip in resized_strips(masks.float(), size):  # (Q, rows, W)
            summed = image_probs @ strip.sigmoid().flatten(1)
            image_scores[:, top : top + strip.shape[1]] = summed.view(-1, *strip.shape[1:])
    return scores


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
    pairs, order = pairs.sort()  # those of one query side by side
    queries, counts = (pairs // num_classes).unique_consecutive(return_counts=True)
    masks, quality = [], []
    for chosen, repeats in zip(queries.split(MAPS_AT_ONCE), counts.split(MAPS_AT_ONCE), strict=True):
        logits = to_image(mask_logits[chosen].float())  # each chosen query once
        inside = logits > 0
        inner_sum = logits.sigmoid().mul_(inside).sum((1, 2))
        quality.append((inner_sum / (areas(inside) + 1e-6)).repeat_interleave(repeats))
        masks.append(inside.repeat_interleave(repeats, dim=0))
    return Instances(labels=pairs % num_classes, scores=scores[order] * torch.cat(quality), masks=torch.cat(masks))


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
    scores, labels, mask_logits = scores[kept], labels[kept], mask_logits[kept].float()
    if len(scores) == 0:
        return torch.zeros_like(to_image(mask_logits).sum(0), dtype=torch.int32), []

    # p(mask) >= 0.5 is asked of the products: rounding to nearest, s * p >= s / 2 holds exactly where p >= 0.5.
    inside_areas: list[Tensor] = []

    def products() -> Iterator[Tensor]:
        for weights, logits in zip(scores.split(MAPS_AT_ONCE), mask_logits.split(MAPS_AT_ONCE), strict=True):
            part = to_image(logits).sigmoid().mul_(weights[:, None, None])
            inside_areas.append(areas(part >= weights[:, None, None] / 2))
            yield part

    best, winner = max_of_parts(products())
    codes = torch.where(best >= (scores / 2)[winner], winner + 1, 0)  # of the pixels inside; 0: void
    won_area = winner.flatten().bincount(minlength=len(scores))
    final_area = codes.flatten().bincount(minlength=len(scores) + 1)[1:]
    table = torch.stack([labels, won_area, torch.cat(inside_areas), final_area])  # one transfer
    ids, segments = number_segments(table.tolist(), scores.tolist(), num_things, overlap_thr)
    return torch.tensor([0, *ids], dtype=torch.int32, device=codes.device)[codes], segments


def number_segments(
    table: list[list[int]], scores: list[float], num_things: int, overlap_thr: float
) -> tuple[list[int], list[Segment]]:
    """Which queries become segments.

    Args:
        table: for each query its label, the pixels it won, those with p(mask) >= 0.5, and those with both.
        scores: class probability of each query.
        num_things, overlap_thr: see :func:`panoptic_prediction`.

    Returns:
        the segment id of each query, 0 where it is dropped, and the segments.
    """
    ids: list[int] = []
    segments: list[Segment] = []
    stuff_ids: dict[int, int] = {}
    for score, label, won, inside, final in zip(scores, *table, strict=True):
        if min(won, inside, final) == 0 or won / inside < overlap_thr:
            ids.append(0)
            continue
        if label not in stuff_ids:
            segments.append(Segment(len(segments) + 1, label, score))
            if label >= num_things:
                stuff_ids[label] = len(segments)
        ids.append(stuff_ids.get(label, len(segments)))
    return ids, segments


def max_of_parts(parts: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Maximum over dimension 0 of maps (N, H, W) that come in parts, and its index, the first among equals.

    Equal to ``torch.cat(parts).max(0)``, but for NaN. At least one part.
    """
    best = winner = torch.empty(0)
    start = 0
    for part in parts:
        value, index = part.max(0)
        if start == 0:
            best, winner = value, index
        else:
            winner = torch.where(value > best, index + start, winner)
            best = torch.maximum(value, best)
        start += len(part)
    return best, winner


def areas(masks: Tensor) -> Tensor:
    """Pixels (N,) int64 of masks (N, H, W) bool. torch sums bytes on a CPU ten times as fast as bools."""
    return masks.view(torch.uint8).sum((1, 2), dtype=torch.int32).long()


def resized_strips(maps: Tensor, size: Size) -> Iterator[tuple[int, Tensor]]:
    """Horizontal strips of ``resize(maps, size)``, each made from the rows it needs.

    Bilinear weights repeat after h / gcd(h, H) rows: strips that begin there are resized with the very same scale.
    Equal to slices of the whole where H is h times a power of two; else up to the rounding of coordinates.

    Args:
        maps: (N, h, w).
        size: (H, W).

    Yields:
        the first row of a strip, and the strip (N, rows, W) of about ``STRIP_BYTES``.
    """
    (num_maps, h, _), (out_h, out_w) = maps.shape, size
    period, out_period = h // math.gcd(h, out_h), out_h // math.gcd(h, out_h)
    period_bytes = num_maps * out_period * out_w * maps.element_size()
    step = max(1, STRIP_BYTES // max(1, period_bytes)) * period
    for first in range(0, h, step):
        last = min(first + step, h)
        begin, end = max(first - period, 0), min(last + period, h)  # a bilinear weight reaches one row beyond
        strip = resize(maps[:, begin:end], ((end - begin) // period * out_period, out_w))
        top, skipped = (rows // period * out_period for rows in (first, first - begin))
        yield top, strip[:, skipped : skipped + (last - first) // period * out_period]
