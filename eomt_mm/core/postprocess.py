"""From logits to semantic scores, instances and panoptic segments: the published rules, as pure functions.

Queries are chosen by their class logits *before* their masks are resized: only masks that can appear in the result
are ever brought to the image's size. Large maps are made and used up in parts, which bounds the memory and lets a CPU
find them in its cache; only the order in which sums are rounded differs from computing them whole.

The steps of the rules take batches of any number of dimensions and can be exported: graphs
(:mod:`eomt_mm.export.postprocess`) and videos reuse them.
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
    probs = class_probs(class_logits)
    scores = probs.new_empty(len(probs), probs.shape[-1], *size)
    for image_scores, image_probs, masks in zip(scores, probs, mask_logits, strict=True):
        for top, strip in resized_strips(masks.float(), size):  # (Q, rows, W)
            image_scores[:, top : top + strip.shape[1]] = sum_of_masks(image_probs, strip)
    return scores


def class_probs(class_logits: Tensor) -> Tensor:
    """Probabilities (..., Q, K) of the classes without "no object", from logits (..., Q, K + 1)."""
    return class_logits.float().softmax(-1)[..., :-1]


def sum_of_masks(probs: Tensor, mask_logits: Tensor) -> Tensor:
    """Sum over queries of p(class) (..., Q, K) times p(mask) of logits (..., Q, H, W): (..., K, H, W)."""
    return (probs.mT @ mask_logits.sigmoid().flatten(-2)).unflatten(-1, mask_logits.shape[-2:])


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
    scores, queries, labels = best_pairs(class_logits, max_per_image)
    queries, counts = queries.unique_consecutive(return_counts=True)  # pairs of one query stand side by side
    masks, quality = [], []
    for chosen, repeats in zip(queries.split(MAPS_AT_ONCE), counts.split(MAPS_AT_ONCE), strict=True):
        inside, inner_mean = masks_and_quality(to_image(mask_logits[chosen].float()))  # each chosen query once
        quality.append(inner_mean.repeat_interleave(repeats))
        masks.append(inside.repeat_interleave(repeats, dim=0))
    return Instances(labels=labels, scores=scores * torch.cat(quality), masks=torch.cat(masks))


def best_pairs(class_logits: Tensor, number: int, best_first: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """The pairs of query and class with the largest probabilities.

    Args:
        class_logits: (..., Q, K + 1).
        number: how many; all where there are fewer.
        best_first: in order of their probabilities; otherwise of query, then class.

    Returns:
        probabilities (..., M), queries and classes (..., M), int64.
    """
    probs = class_probs(class_logits)
    num_classes = probs.shape[-1]
    probs = probs.flatten(-2)
    scores, pairs = probs.topk(min(number, probs.shape[-1]), sorted=best_first)
    if not best_first:
        pairs, order = pairs.sort()
        scores = scores.gather(-1, order)
    return scores, pairs // num_classes, pairs % num_classes


def masks_and_quality(mask_logits: Tensor) -> tuple[Tensor, Tensor]:
    """Masks (..., H, W) bool of logits at the image's size, and the mean (...) of p(mask) inside, 0 where empty."""
    inside = mask_logits > 0
    inner_sum = mask_logits.sigmoid().mul_(inside).sum((-2, -1))
    return inside, inner_sum / (areas(inside) + 1e-6)


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
    scores, labels, kept = choose_queries(class_logits, score_thr)
    scores, labels, mask_logits = scores[kept][None], labels[kept][None], mask_logits[kept].float()
    if len(mask_logits) == 0:
        return torch.zeros_like(to_image(mask_logits).sum(0), dtype=torch.int32), []
    parts = (to_image(logits).sigmoid()[None] for logits in mask_logits.split(MAPS_AT_ONCE))
    codes, pixels = win_pixels(scores, parts)
    opened, ids = number_segments(labels, pixels, num_things, overlap_thr)
    of_queries = zip(*torch.cat([opened, labels]).tolist(), scores[0].tolist(), strict=True)
    segments = [Segment(id_, label, score) for id_, label, score in of_queries if id_]
    return segment_map(codes, ids)[0], segments


def choose_queries(class_logits: Tensor, score_thr: float) -> tuple[Tensor, Tensor, Tensor]:
    """Probability and index (..., Q) of each query's best class, and whether it takes part, from (..., Q, K + 1)."""
    scores, labels = class_logits.float().softmax(-1).max(-1)
    return scores, labels, (labels != class_logits.shape[-1] - 1) & (scores > score_thr)


def win_pixels(scores: Tensor, parts: Iterable[Tensor], kept: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Gives each pixel to the query of largest p(class) * p(mask), the first among equals.

    Args:
        scores: p(class), (N, Q).
        parts: p(mask) of queries in their order, (N, n, H, W) each, changed here; Q in all, at least one.
        kept: (N, Q) bool, the queries that take part; None: all.

    Returns:
        codes (N, H, W) int64: 1 + the query that wins the pixel, 0 where its p(mask) is below 0.5; and the pixels
        (N, 3, Q) of each query: won, with p(mask) >= 0.5, both.
    """
    inside_areas: list[Tensor] = []

    def products() -> Iterator[Tensor]:
        start = 0
        for probs in parts:
            part = slice(start, start + probs.shape[1])
            start = part.stop
            weights = scores[:, part, None, None]
            product = probs.mul_(weights)
            # Rounding to nearest, s * p >= s / 2 holds exactly where p >= 0.5.
            inside_areas.append(areas(product >= weights / 2))
            yield product if kept is None else torch.where(kept[:, part, None, None], product, -1.0)

    best, winner = max_of_parts(products(), dim=1)
    size, best, winner = best.shape[1:], best.flatten(1), winner.flatten(1)
    codes = torch.where(best >= (scores / 2).gather(1, winner), winner + 1, 0)
    won, final = counts_of(winner, scores.shape[1]), counts_of(codes, scores.shape[1] + 1)[:, 1:]
    return codes.unflatten(1, size), torch.stack([won, torch.cat(inside_areas, 1), final], dim=1)


def number_segments(
    labels: Tensor, pixels: Tensor, num_things: int, overlap_thr: float, kept: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Which queries become segments, numbered from 1 in their order; stuff of one class is one segment.

    Args:
        labels: (N, Q), class indices.
        pixels: (N, 3, Q), see :func:`win_pixels`.
        num_things, overlap_thr: see :func:`panoptic_prediction`.
        kept: (N, Q) bool, the queries that take part; None: all.

    Returns:
        id of the segment that each query opens, and of the segment that it belongs to: (N, Q) int64, 0 for none.
    """
    won, inside, final = pixels.unbind(1)
    found = (won > 0) & (inside > 0) & (final > 0) & (won.double() / inside.clamp(min=1) >= overlap_thr)
    if kept is not None:
        found = found & kept
    num_queries = labels.shape[1]
    index = torch.arange(num_queries, device=labels.device)
    same = (labels[:, :, None] == labels[:, None]) & (labels >= num_things)[:, None]
    same = (same | (index[:, None] == index)) & found[:, None]  # (N, Q, Q): merged stuff, and each with itself
    first = torch.where(same, index, num_queries).amin(2)  # the query that opens the segment
    opens = found & (first == index)
    opened = opens.long().cumsum(1) * opens
    return opened, opened.gather(1, first.clamp(max=num_queries - 1)) * found


def segment_map(codes: Tensor, ids: Tensor) -> Tensor:
    """Maps (N, H, W) int32 of segment ids, 0 = void, from codes of :func:`win_pixels` and ids (N, Q)."""
    ids = torch.cat([torch.zeros_like(ids[:, :1]), ids], dim=1).int()  # void stays 0
    return ids.gather(1, codes.flatten(1)).unflatten(1, codes.shape[1:])


def max_of_parts(parts: Iterable[Tensor], dim: int = 0) -> tuple[Tensor, Tensor]:
    """Maximum over dimension ``dim`` of maps that come in parts, and its index, the first among equals.

    Equal to ``torch.cat(parts, dim).max(dim)``, but for NaN. At least one part.
    """
    best = winner = torch.empty(0)
    start = 0
    for part in parts:
        value, index = part.max(dim)
        if start == 0:
            best, winner = value, index
        else:
            winner = torch.where(value > best, index + start, winner)
            best = torch.maximum(value, best)
        start += part.shape[dim]
    return best, winner


def areas(masks: Tensor) -> Tensor:
    """Pixels (...) int64 of masks (..., H, W) bool."""
    if torch.compiler.is_compiling():
        return masks.long().sum((-2, -1))
    # torch sums bytes on a CPU ten times as fast as bools
    return masks.view(torch.uint8).sum((-2, -1), dtype=torch.int32).long()


def counts_of(codes: Tensor, num_codes: int) -> Tensor:
    """How often each of 0 ... num_codes - 1 occurs in codes (N, L): (N, num_codes) int64."""
    if torch.compiler.is_compiling():  # bincount has no ONNX operator; float32 is exact up to 2^24
        zeros = torch.zeros(codes.shape[0], num_codes, device=codes.device)
        return zeros.scatter_add(1, codes, torch.ones_like(codes, dtype=torch.float32)).long()
    return torch.stack([of_image.bincount(minlength=num_codes) for of_image in codes])


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
