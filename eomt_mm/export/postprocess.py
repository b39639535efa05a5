"""Results in the graph: the rules of :mod:`eomt_mm.core.postprocess` for whole batches, with fixed shapes.

Results are over the input, padding included; bringing them to the image is the caller's. Nothing depends on how many
queries are kept: where those functions choose queries, these carry all of them and mark the kept ones.
"""

import torch
from torch import Tensor, nn

from eomt_mm.core.geometry import Size, resize

# Query maps resized together; more would only take more memory (16 maps of 640 x 640 are 26 MB per image).
MAPS_AT_ONCE = 16


class Postprocess(nn.Module):
    """From class logits (N, Q, K + 1) and mask logits (N, Q, h, w) to named outputs.

    Attributes:
        outputs: name of each output, and what it holds.
    """

    outputs: dict[str, str]

    def forward(self, class_logits: Tensor, mask_logits: Tensor, size: Size) -> tuple[Tensor, ...]:
        raise NotImplementedError


class Logits(Postprocess):
    """No post-processing."""

    outputs = dict(
        class_logits='float32 (N, Q, K + 1), "no object" last',
        mask_logits='float32 (N, Q, h, w), over the input',
    )

    def forward(self, class_logits: Tensor, mask_logits: Tensor, size: Size) -> tuple[Tensor, ...]:
        return class_logits, mask_logits


class SemanticLabels(Postprocess):
    """The class of largest score of every pixel; see :func:`~eomt_mm.core.postprocess.semantic_scores`."""

    outputs = dict(label_map='int32 (N, H, W), class indices')

    def forward(self, class_logits: Tensor, mask_logits: Tensor, size: Size) -> tuple[Tensor, ...]:
        probs = class_logits.softmax(-1)[..., :-1].mT  # (N, K, Q)
        masks = resize(mask_logits, size).sigmoid().flatten(2)  # (N, Q, H * W)
        return ((probs @ masks).argmax(1).unflatten(1, size).int(),)


class TopInstances(Postprocess):
    """The ``max_per_image`` best (query, class) pairs; see :func:`~eomt_mm.core.postprocess.instance_prediction`.

    They are in order of query, then class.
    """

    outputs = dict(
        labels='int64 (N, M), class indices',
        scores='float32 (N, M), in [0, 1], not sorted',
        masks='bool (N, M, H, W)',
    )

    def __init__(self, max_per_image: int) -> None:
        super().__init__()
        self.max_per_image = max_per_image

    def forward(self, class_logits: Tensor, mask_logits: Tensor, size: Size) -> tuple[Tensor, ...]:
        num_classes = class_logits.shape[-1] - 1
        probs = class_logits.softmax(-1)[..., :-1].flatten(1)
        scores, pairs = probs.topk(min(self.max_per_image, probs.shape[1]))
        pairs, order = pairs.sort()
        queries = (pairs // num_classes)[..., None, None].expand(-1, -1, *mask_logits.shape[2:])
        masks, quality = [], []
        for chosen in mask_logits.gather(1, queries).split(MAPS_AT_ONCE, dim=1):
            logits = resize(chosen, size)
            inside = logits > 0
            inner_sum = (logits.sigmoid() * inside).sum((2, 3))
            quality.append(inner_sum / (inside.float().sum((2, 3)) + 1e-6))
            masks.append(inside)
        return pairs % num_classes, scores.gather(1, order) * torch.cat(quality, 1), torch.cat(masks, 1)


class PanopticMap(Postprocess):
    """Non-overlapping segments; see :func:`~eomt_mm.core.postprocess.panoptic_prediction`.

    Args:
        num_things: classes below this index are things.
        score_thr, overlap_thr: in [0, 1].
    """

    outputs = dict(
        segment_map='int32 (N, H, W), segment ids, 0 = void',
        segment_ids="int32 (N, Q), the segment that a query opens, 0 = none; its label and score are the segment's",
        labels='int64 (N, Q), class indices, K = "no object"',
        scores='float32 (N, Q), class probabilities',
    )

    def __init__(self, num_things: int, score_thr: float, overlap_thr: float) -> None:
        super().__init__()
        self.num_things = num_things
        self.score_thr = score_thr
        self.overlap_thr = overlap_thr

    def forward(self, class_logits: Tensor, mask_logits: Tensor, size: Size) -> tuple[Tensor, ...]:
        scores, labels = class_logits.softmax(-1).max(-1)  # (N, Q)
        kept = (labels != class_logits.shape[-1] - 1) & (scores > self.score_thr)
        winner, codes, inside_area = self._winners(scores, kept, mask_logits, size)
        won_area = counts(winner, scores.shape[1])
        final_area = counts(codes, scores.shape[1] + 1)[:, 1:]
        found = kept & (won_area > 0) & (inside_area > 0) & (final_area > 0)
        found &= won_area.double() / inside_area.clamp(min=1) >= self.overlap_thr
        opened, ids = self._number(labels, found)
        ids = torch.cat([torch.zeros_like(ids[:, :1]), ids], dim=1)  # void stays 0
        return ids.gather(1, codes).unflatten(1, size).int(), opened.int(), labels, scores

    def _winners(self, scores: Tensor, kept: Tensor, logits: Tensor, size: Size) -> tuple[Tensor, Tensor, Tensor]:
        """Which query has which pixels.

        Queries that are not kept count as -1, below every product. Where none is kept query 0 wins, inside nowhere.

        Returns:
            the kept query that wins each pixel (N, H * W); the same plus 1, but 0 where its p(mask) is below 0.5; how
            many pixels (N, Q) each query has where it is not.
        """
        best, winner, codes = (torch.zeros(0),) * 3
        areas = []
        for start in range(0, logits.shape[1], MAPS_AT_ONCE):
            part = slice(start, min(start + MAPS_AT_ONCE, logits.shape[1]))
            weights = scores[:, part, None]
            product = resize(logits[:, part], size).sigmoid().flatten(2) * weights  # (N, n, H * W)
            areas.append((product >= weights / 2).float().sum(2))
            value, index = torch.where(kept[:, part, None], product, -1.0).max(1)
            index = index + start
            code = torch.where(value >= scores.gather(1, index) / 2, index + 1, 0)
            if start == 0:
                best, winner, codes = value, index, code
                continue
            better = value > best
            best = torch.maximum(value, best)
            winner, codes = torch.where(better, index, winner), torch.where(better, code, codes)
        return winner, codes, torch.cat(areas, 1)

    def _number(self, labels: Tensor, found: Tensor) -> tuple[Tensor, Tensor]:
        """Segment that each query opens and segment that it belongs to, both (N, Q) and 0 for none."""
        num_queries = labels.shape[1]
        index = torch.arange(num_queries, device=labels.device)
        same = (labels[:, :, None] == labels[:, None]) & (labels >= self.num_things)[:, None]
        same = (same | (index[:, None] == index)) & found[:, None]  # (N, Q, Q): merged stuff, and each with itself
        first = torch.where(same, index, num_queries).amin(2)  # the query that opens the segment
        opens = found & (first == index)
        opened = opens.long().cumsum(1) * opens
        ids = opened.gather(1, first.clamp(max=num_queries - 1)) * found
        return opened, ids


def counts(codes: Tensor, num_codes: int) -> Tensor:
    """How often each of 0 ... num_codes - 1 occurs in codes (N, L): float32 (N, num_codes), exact up to 2^24."""
    zeros = torch.zeros(codes.shape[0], num_codes, device=codes.device)
    return zeros.scatter_add(1, codes, torch.ones_like(codes, dtype=torch.float32))
