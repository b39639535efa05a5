"""Post-processing in the network's graph: the rules of :mod:`eomt_mm.core.postprocess` for batches, with fixed shapes.

Results cover the whole input, padding included; the caller crops and resizes them to the image. Shapes do not depend on
the number of kept queries: all queries are processed, and the kept ones are marked.
"""

import torch
from torch import Tensor, nn

from eomt_mm.core.geometry import Size, resize
from eomt_mm.core.postprocess import (
    assign_pixels,
    assign_segment_ids,
    best_pairs,
    choose_queries,
    class_probs,
    masks_and_quality,
    segment_map,
    sum_of_masks,
)
from eomt_mm.export.steps import (
    AssignPixels,
    BestClass,
    BestPairs,
    ChooseQueries,
    ClassScores,
    InstanceMasks,
    NumberSegments,
    Step,
)

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

    def steps(self) -> dict[str, Step]:
        """The same rules in steps; see :mod:`eomt_mm.export.steps`."""
        return {}


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

    def steps(self) -> dict[str, Step]:
        return dict(class_scores=ClassScores(), best_class=BestClass())

    def forward(self, class_logits: Tensor, mask_logits: Tensor, size: Size) -> tuple[Tensor, ...]:
        return (sum_of_masks(class_probs(class_logits), resize(mask_logits, size)).argmax(1).int(),)


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

    def steps(self) -> dict[str, Step]:
        return dict(best_pairs=BestPairs(self.max_per_image), instance_masks=InstanceMasks())

    def forward(self, class_logits: Tensor, mask_logits: Tensor, size: Size) -> tuple[Tensor, ...]:
        scores, queries, labels = best_pairs(class_logits, self.max_per_image)
        chosen = mask_logits.gather(1, queries[..., None, None].expand(-1, -1, *mask_logits.shape[2:]))
        parts = [masks_and_quality(resize(part, size)) for part in chosen.split(MAPS_AT_ONCE, dim=1)]
        masks, quality = (torch.cat(found, 1) for found in zip(*parts, strict=True))
        return labels, scores * quality, masks


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

    def steps(self) -> dict[str, Step]:
        return dict(
            choose_queries=ChooseQueries(self.score_thr),
            assign_pixels=AssignPixels(),
            number_segments=NumberSegments(self.num_things, self.overlap_thr),
        )

    def forward(self, class_logits: Tensor, mask_logits: Tensor, size: Size) -> tuple[Tensor, ...]:
        scores, labels, kept = choose_queries(class_logits, self.score_thr)
        parts = (resize(part, size).sigmoid() for part in mask_logits.split(MAPS_AT_ONCE, dim=1))
        codes, pixels = assign_pixels(scores, parts, kept)
        opened, ids = assign_segment_ids(labels, pixels, self.num_things, self.overlap_thr, kept)
        return segment_map(codes, ids), opened.int(), labels, scores
