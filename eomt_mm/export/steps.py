"""Post-processing in steps, for runners without PyTorch: the rules of :mod:`eomt_mm.core.postprocess` as small graphs.

Results in the network's own graph (:mod:`eomt_mm.export.postprocess`) cover its input. With the steps, a runner
predicts at the size of the image: it chooses queries, and passes only their masks, with one matrix per side that
resizes them. It can do so strip by strip, or query by query, so that its memory does not grow with their number.
"""

from typing import ClassVar

import torch
from torch import Tensor, nn

from eomt_mm.core.postprocess import (
    assign_pixels,
    assign_segment_ids,
    best_pairs,
    choose_queries,
    class_probs,
    masks_and_quality,
    sum_of_masks,
)

Shape = tuple[str | int, ...]
MASKS: dict[str, Shape] = dict(mask_logits=('n', 'h', 'w'), rows=('H', 'h'), columns=('w', 'W'))


class Step(nn.Module):
    """One step of the post-processing of an image, without a batch dimension.

    Attributes:
        inputs: name and shape of each input. Sides named 'Q', 'K', 'K1' (K + 1), 'h' and 'w' are those of the network's
            logits. All others differ from call to call: queries that are processed, rows and columns of the image.
        dtypes: of the inputs that are not float32.
        outputs: name of each output, and what it holds.
    """

    inputs: ClassVar[dict[str, Shape]]
    dtypes: ClassVar[dict[str, torch.dtype]] = {}
    outputs: ClassVar[dict[str, str]]

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        raise NotImplementedError


class ClassScores(Step):
    """Class scores of one window; see :func:`~eomt_mm.core.postprocess.semantic_scores`."""

    inputs = dict(class_logits=('Q', 'K1'), **{**MASKS, 'mask_logits': ('Q', 'h', 'w')})
    outputs = dict(scores='float32 (K, H, W), at least 0')

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        class_logits, mask_logits, rows, columns = inputs
        return (sum_of_masks(class_probs(class_logits), rows @ mask_logits @ columns),)


class BestClass(Step):
    """The class of largest score of every pixel."""

    inputs = dict(scores=('K', 'h2', 'w2'), rows=('H', 'h2'), columns=('w2', 'W'))
    outputs = dict(label_map='int32 (H, W), class indices')

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        scores, rows, columns = inputs
        return ((rows @ scores @ columns).argmax(0).int(),)


class BestPairs(Step):
    """The ``max_per_image`` best (query, class) pairs; see :func:`~eomt_mm.core.postprocess.best_pairs`."""

    inputs = dict(class_logits=('Q', 'K1'))
    outputs = dict(probs='float32 (M), class probabilities', queries='int64 (M)', labels='int64 (M), class indices')

    def __init__(self, max_per_image: int) -> None:
        super().__init__()
        self.max_per_image = max_per_image

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return best_pairs(inputs[0], self.max_per_image)


class InstanceMasks(Step):
    """Masks and scores of pairs; see :func:`~eomt_mm.core.postprocess.instance_prediction`."""

    inputs = dict(probs=('n',), **MASKS)
    outputs = dict(masks='bool (n, H, W)', scores='float32 (n), in [0, 1]')

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        probs, mask_logits, rows, columns = inputs
        masks, quality = masks_and_quality(rows @ mask_logits @ columns)
        return masks, probs * quality


class ChooseQueries(Step):
    """Best class of each query, and whether it is kept; see :func:`~eomt_mm.core.postprocess.choose_queries`."""

    inputs = dict(class_logits=('Q', 'K1'))
    outputs = dict(scores='float32 (Q), class probabilities', labels='int64 (Q), class indices', kept='bool (Q)')

    def __init__(self, score_thr: float) -> None:
        super().__init__()
        self.score_thr = score_thr

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return choose_queries(inputs[0], self.score_thr)


class AssignPixels(Step):
    """The query of each pixel of a strip, and pixel counts; see :func:`~eomt_mm.core.postprocess.assign_pixels`."""

    inputs = dict(scores=('n',), **MASKS)
    outputs = dict(codes='int32 (H, W), 1 + index of the query, 0 = void', pixels='int64 (3, n), counts to add up')

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        scores, mask_logits, rows, columns = inputs
        probs = (rows @ mask_logits @ columns).sigmoid()
        codes, pixels = assign_pixels(scores[None], [probs[None]])
        return codes[0].int(), pixels[0]


class NumberSegments(Step):
    """Segment ids of queries; see :func:`~eomt_mm.core.postprocess.assign_segment_ids`."""

    inputs = dict(labels=('n',), pixels=(3, 'n'))
    dtypes = dict(labels=torch.int64, pixels=torch.int64)
    outputs = dict(opened='int64 (n), id of the segment that a query opens, 0 = none', ids='int64 (n), 0 = no segment')

    def __init__(self, num_things: int, overlap_thr: float) -> None:
        super().__init__()
        self.num_things = num_things
        self.overlap_thr = overlap_thr

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        labels, pixels = inputs
        opened, ids = assign_segment_ids(labels[None], pixels[None], self.num_things, self.overlap_thr)
        return opened[0], ids[0]
