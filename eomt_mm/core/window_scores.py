"""Sum class scores of an image window by window, so that memory does not grow with the number of windows."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

import torch
from torch import Tensor

from eomt_mm.core.geometry import Windows
from eomt_mm.core.network import Predictions
from eomt_mm.core.postprocess import maps_at_once, max_of_parts, semantic_scores


class WindowScores:
    """Sums of class scores over the windows of one image, in one prediction layer.

    Args:
        geometry: windows of the image.
    """

    def __init__(self, geometry: Windows) -> None:
        self._geometry = geometry
        self._sums = torch.empty(0)
        self._num_added = 0

    @property
    def is_complete(self) -> bool:
        """Whether all windows have been added."""
        return self._num_added == self._geometry.num_inputs

    def add(self, class_logits: Tensor, mask_logits: Tensor) -> None:
        """Add the next window: class logits (1, Q, K + 1) and mask logits (1, Q, h, w)."""
        scores = semantic_scores(class_logits, mask_logits, self._geometry.input_size)  # (1, K, *input_size)
        if self._geometry.num_inputs == 1:
            self._sums = scores[0]  # the sum of one window: no copy
        else:
            if self._num_added == 0:
                self._sums = self._geometry.empty_sums(scores)
            self._geometry.add(self._sums, scores, first=self._num_added)
        self._num_added += 1

    def labels(self, keep_scores: bool) -> tuple[Tensor, Tensor | None]:
        """Return the class with the largest score for every pixel; call it once, because the sums are released.

        Args:
            keep_scores: also return the scores, which takes memory for all classes at full size.

        Returns:
            (H, W) int64 at the original size of the image, and the scores (K, H, W) or None.
        """
        sums, self._sums = self._sums, torch.empty(0)
        if keep_scores:
            scores = self._geometry.average(sums)
            return scores.argmax(0), scores
        parts = sums.split(maps_at_once(self._geometry.ori_size))
        return max_of_parts(self._geometry.average(part) for part in parts)[1], None


def semantic_predictions(
    chunks: Iterable[Predictions], geometries: Sequence[Windows], keep_scores: bool
) -> Iterator[list[tuple[Tensor, Tensor | None]]]:
    """Predict labels of images whose windows are predicted in chunks.

    Args:
        chunks: predictions of the windows of all images in sequence, in chunks of any size.
        geometries: windows of each image.
        keep_scores: for the final layer; see :meth:`WindowScores.labels`.

    Yields:
        per image, after its last window: the result of :meth:`WindowScores.labels` for each layer.
    """
    owners = (index for index, geometry in enumerate(geometries) for _ in range(geometry.num_inputs))
    layers: list[WindowScores] = []
    for class_logits, mask_logits in chunks:
        for window, owner in enumerate(islice(owners, len(class_logits[0]))):
            layers = layers or [WindowScores(geometries[owner]) for _ in class_logits]
            for layer, classes, masks in zip(layers, class_logits, mask_logits, strict=True):
                layer.add(classes[window : window + 1], masks[window : window + 1])
            if layers[0].is_complete:
                *earlier, final = layers
                yield [*(layer.labels(False) for layer in earlier), final.labels(keep_scores)]
                layers = []
