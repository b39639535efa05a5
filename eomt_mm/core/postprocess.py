"""Published post-processing as pure functions: from logits to semantic scores, instances and panoptic segments.

Queries are chosen by their class logits *before* their masks are resized, so that only masks that can appear in the
result are resized to the image. Large maps are computed in parts, which bounds the memory and keeps each part in the
CPU's cache. Results differ from those of whole maps only by the rounding of sums. Beside its result, no function needs
more than 48 bytes per pixel of a large image, the size of 12 masks of logits, whatever the number of queries.

The individual steps accept batches and can be exported: exported graphs (:mod:`eomt_mm.export.postprocess`) and video
models reuse them.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from eomt_mm.core.geometry import Size, resize

# Function from mask logits (N, h, w) of the input to (N, H, W) of the image: `invert` of a geometry.
ToImage = Callable[[Tensor], Tensor]

# Parts have 8 to 16 MB at usual sizes. Above 32 MB, glibc maps new memory for every tensor, which the kernel clears.
MAPS_AT_ONCE = 8
PART_BYTES = 2**25
STRIP_BYTES = 2**23


@dataclass(frozen=True)
class Segment:
    """One segment of a panoptic map.

    Attributes:
        id: value in the map, from 1.
        label: class index.
        score: class probability of its query; for merged stuff, of its first query.
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
    """Compute class scores of every pixel: sum over queries of p(class) * p(mask) (MaskFormer, section 3.4).

    Args:
        class_logits: (B, Q, K + 1).
        mask_logits: (B, Q, h, w), resized to ``size`` before the sigmoid.
        size: (H, W) of the input or window.

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
    """Compute the probabilities (..., Q, K) of the classes without "no object", from logits (..., Q, K + 1)."""
    return class_logits.float().softmax(-1)[..., :-1]


def sum_of_masks(probs: Tensor, mask_logits: Tensor) -> Tensor:
    """Sum p(class) (..., Q, K) times p(mask) of logits (..., Q, H, W) over queries, to (..., K, H, W)."""
    return (probs.mT @ mask_logits.sigmoid().flatten(-2)).unflatten(-1, mask_logits.shape[-2:])


def instance_prediction(
    class_logits: Tensor, mask_logits: Tensor, to_image: ToImage, max_per_image: int = 100
) -> Instances:
    """Predict instances from the ``max_per_image`` best (query, class) pairs; a query may have several classes.

    Mask: logit > 0. Score: class probability times the mean mask probability inside the mask (Mask2Former,
    appendix). There is no threshold and no suppression, as usual for AP.

    Args:
        class_logits: (Q, K + 1).
        mask_logits: (Q, h, w).
        to_image: resizes mask logits to the image.
        max_per_image: largest number of instances.
    """
    number = min(max_per_image, class_logits[:, 1:].numel())
    labels, scores, masks, found = list[Tensor](), list[Tensor](), torch.empty(0), 0
    for part in instance_parts(class_logits, mask_logits, to_image, max_per_image):
        if not labels:  # filled part by part: joining the parts at the end would need twice the memory
            masks = part.masks.new_empty(number, *part.masks.shape[1:])
        masks[found : found + len(part.masks)] = part.masks
        found += len(part.masks)
        labels.append(part.labels)
        scores.append(part.scores)
    return Instances(torch.cat(labels), torch.cat(scores), masks)


def instance_parts(
    class_logits: Tensor,
    mask_logits: Tensor,
    to_image: ToImage,
    max_per_image: int = 100,
    min_score: float = 0.0,
) -> Iterator[Instances]:
    """Yield the instances of :func:`instance_prediction` with scores of at least ``min_score``, a few at a time.

    A score is at most its class probability, so that pairs below ``min_score`` are left out before masks are resized.
    """
    scores, queries, labels = best_pairs(class_logits, max_per_image)
    if min_score > 0:
        chosen = scores >= 0.999 * min_score  # by rounding, the mean mask probability may exceed 1
        scores, queries, labels = scores[chosen], queries[chosen], labels[chosen]
    queries, counts = queries.unique_consecutive(return_counts=True)  # pairs of one query are adjacent
    first = pair = 0
    for maps in image_maps(mask_logits[queries], to_image):  # once per query
        masks, quality = masks_and_quality(maps)
        repeats, first = counts[first : first + len(maps)], first + len(maps)
        here = slice(pair, pair + int(repeats.sum()))
        found, pair = scores[here] * quality.repeat_interleave(repeats), here.stop
        masks, kept = masks.repeat_interleave(repeats, dim=0), found >= min_score
        del maps
        yield Instances(labels[here][kept], found[kept], masks if kept.all() else masks[kept])


def image_maps(mask_logits: Tensor, to_image: ToImage) -> Iterator[Tensor]:
    """Yield mask logits (n, H, W) of the image, float32, for all masks (N, h, w) in sequence.

    n is 1 at first, then :func:`maps_at_once`. Without masks, an empty part (0, H, W) is yielded.
    """
    first = to_image(mask_logits[:1].float())
    height, width = first.shape[-2:]
    yield first
    del first
    rest = mask_logits[1:]
    for part in rest.split(maps_at_once((height, width))) if len(rest) else ():
        yield to_image(part.float())


def maps_at_once(size: Size) -> int:
    """Return how many float32 maps of a size (H, W) to compute together: at most 32 MB, at least one map."""
    return max(1, min(MAPS_AT_ONCE, PART_BYTES // (4 * size[0] * size[1])))


def best_pairs(class_logits: Tensor, number: int, best_first: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """Find the (query, class) pairs with the largest probabilities.

    Args:
        class_logits: (..., Q, K + 1).
        number: number of pairs M; all if there are fewer.
        best_first: sort by probability, highest first; otherwise by query, then class.

    Returns:
        probabilities (..., M), and indices of queries (..., M) and of classes (..., M), int64.
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
    """Compute masks (..., H, W) bool from logits, and the mean (...) of p(mask) inside each, 0 for an empty mask."""
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
    """Predict non-overlapping segments (MaskFormer, section 3.4, with EoMT's published thresholds).

    A query is kept if its best class is not "no object" and has a probability above ``score_thr``. Each pixel is
    assigned to the kept query of largest p(class) * p(mask). The segment of a query consists of its assigned pixels
    with p(mask) >= 0.5. It is dropped if the number of assigned pixels is less than ``overlap_thr`` times the number
    of all pixels with p(mask) >= 0.5. Stuff segments of one class are merged.

    Args:
        class_logits: (Q, K + 1).
        mask_logits: (Q, h, w).
        to_image: resizes mask logits to the image.
        num_things: classes below this index are things, the others stuff.
        score_thr: threshold of the class probability, in [0, 1].
        overlap_thr: threshold of the fraction of pixels that a query keeps, in [0, 1].

    Returns:
        map (H, W) int32 of segment ids, 0 = void, and the segments.
    """
    scores, labels, kept = choose_queries(class_logits, score_thr)
    scores, labels, mask_logits = scores[kept][None], labels[kept][None], mask_logits[kept].float()
    if len(mask_logits) == 0:
        return torch.zeros_like(to_image(mask_logits).sum(0), dtype=torch.int32), []
    parts = (maps.sigmoid_()[None] for maps in image_maps(mask_logits, to_image))  # mask_logits is a copy
    codes, pixels = assign_pixels(scores, parts)
    opened, ids = assign_segment_ids(labels, pixels, num_things, overlap_thr)
    of_queries = zip(*torch.cat([opened, labels]).tolist(), scores[0].tolist(), strict=True)
    segments = [Segment(id_, label, score) for id_, label, score in of_queries if id_]
    return segment_map(codes, ids)[0], segments


def choose_queries(class_logits: Tensor, score_thr: float) -> tuple[Tensor, Tensor, Tensor]:
    """Find probability and index of each query's best class, and whether the query is kept: (..., Q) each.

    ``class_logits`` are (..., Q, K + 1). The best class may be "no object" (index K); such queries are not kept.
    """
    scores, labels = class_logits.float().softmax(-1).max(-1)
    return scores, labels, (labels != class_logits.shape[-1] - 1) & (scores > score_thr)


def assign_pixels(scores: Tensor, parts: Iterable[Tensor], kept: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Assign each pixel to the query of largest p(class) * p(mask); the first query wins ties.

    Args:
        scores: p(class), (N, Q).
        parts: p(mask) in parts (N, n, H, W) of n queries each, in query order, Q in total; at least one part. Parts
            are modified in place.
        kept: (N, Q) bool, the queries that take part; None: all.

    Returns:
        codes (N, H, W) int64: 1 + index of the query that wins the pixel, 0 where its p(mask) is below 0.5; and pixel
        counts (N, 3, Q) of each query: pixels won, pixels with p(mask) >= 0.5, pixels that are both.
    """
    inside_areas: list[Tensor] = []

    def products() -> Iterator[Tensor]:
        start = 0
        for probs in parts:
            part = slice(start, start + probs.shape[1])
            start = part.stop
            weights = scores[:, part, None, None]
            product = probs.mul_(weights)
            # In rounding to nearest, s * p >= s / 2 if and only if p >= 0.5.
            inside_areas.append(areas(product >= weights / 2))
            yield product if kept is None else torch.where(kept[:, part, None, None], product, -1.0)

    best, winner = max_of_parts(products(), dim=1)
    size, best, winner = best.shape[1:], best.flatten(1), winner.flatten(1)
    codes = torch.where(best >= (scores / 2).gather(1, winner), winner + 1, 0)
    won, final = counts_of(winner, scores.shape[1]), counts_of(codes, scores.shape[1] + 1)[:, 1:]
    return codes.unflatten(1, size), torch.stack([won, torch.cat(inside_areas, 1), final], dim=1)


def assign_segment_ids(
    labels: Tensor, pixels: Tensor, num_things: int, overlap_thr: float, kept: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Number the segments, that is, the queries that fulfil the rules of :func:`panoptic_prediction`, from 1.

    Ids follow the order of the queries. All stuff queries of one class share one segment.

    Args:
        labels: (N, Q), class indices.
        pixels: (N, 3, Q), see :func:`assign_pixels`.
        num_things, overlap_thr: see :func:`panoptic_prediction`.
        kept: (N, Q) bool, the queries that take part; None: all.

    Returns:
        ``opened`` (N, Q) int64, the id of the segment whose first query this is, 0 for all other queries; and ``ids``
        (N, Q) int64, the id of the segment that the query belongs to, 0 for none.
    """
    won, inside, final = pixels.unbind(1)
    found = (won > 0) & (inside > 0) & (final > 0) & (won.double() / inside.clamp(min=1) >= overlap_thr)
    if kept is not None:
        found = found & kept
    num_queries = labels.shape[1]
    index = torch.arange(num_queries, device=labels.device)
    same = (labels[:, :, None] == labels[:, None]) & (labels >= num_things)[:, None]
    same = (same | (index[:, None] == index)) & found[:, None]  # (N, Q, Q): in the same segment
    first = torch.where(same, index, num_queries).amin(2)  # first query of the segment
    opens = found & (first == index)
    opened = opens.long().cumsum(1) * opens
    return opened, opened.gather(1, first.clamp(max=num_queries - 1)) * found


def segment_map(codes: Tensor, ids: Tensor) -> Tensor:
    """Build maps (N, H, W) int32 of segment ids, 0 = void, from codes of :func:`assign_pixels` and ids (N, Q)."""
    ids = torch.cat([torch.zeros_like(ids[:, :1]), ids], dim=1).int()  # void stays 0
    return ids.gather(1, codes.flatten(1)).unflatten(1, codes.shape[1:])


def max_of_parts(parts: Iterable[Tensor], dim: int = 0) -> tuple[Tensor, Tensor]:
    """Compute the maximum and its index along ``dim`` of maps that are given in parts; the first wins ties.

    Equal to ``torch.cat(parts, dim).max(dim)``, except for NaN. At least one part is needed.
    """
    best = winner = torch.empty(0)
    start = 0
    for part in parts:
        value, index = part.max(dim)
        if start == 0:
            best, winner = value, index
        else:
            winner = torch.where(value > best, index.add_(start), winner)
            best = torch.maximum(value, best)
        start += part.shape[dim]
    return best, winner


def areas(masks: Tensor) -> Tensor:
    """Count the pixels (...) int64 of masks (..., H, W) bool."""
    if torch.compiler.is_compiling():
        return masks.long().sum((-2, -1))
    # on a CPU, torch sums bytes ten times as fast as bools
    return masks.view(torch.uint8).sum((-2, -1), dtype=torch.int32).long()


def counts_of(codes: Tensor, num_codes: int) -> Tensor:
    """Count the values 0 ... num_codes - 1 in codes (N, L), to (N, num_codes) int64."""
    if torch.compiler.is_compiling():  # bincount has no ONNX operator; float32 is exact up to 2^24
        zeros = torch.zeros(codes.shape[0], num_codes, device=codes.device)
        return zeros.scatter_add(1, codes, torch.ones_like(codes, dtype=torch.float32)).long()
    return torch.stack([of_image.bincount(minlength=num_codes) for of_image in codes])


def resized_strips(maps: Tensor, size: Size) -> Iterator[tuple[int, Tensor]]:
    """Yield horizontal strips of ``resize(maps, size)``, each computed from only the rows that it needs.

    Bilinear weights repeat every h / gcd(h, H) rows. Strips start at multiples of this number, so that each is resized
    with exactly the same scale. If H is h times a power of two, strips equal slices of the whole result; otherwise they
    differ by the rounding of coordinates.

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
