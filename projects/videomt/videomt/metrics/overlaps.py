"""Count common pixels of ground-truth and predicted segments per frame, which is all that panoptic metrics need."""

from collections.abc import Iterator

import numpy as np

from eomt_mm.annotations.panoptic_png import run_starts
from eomt_mm.evaluation.panoptic_image import INSTANCE_OFFSET
from eomt_mm.evaluation.pq_counting import count_overlap
from videomt.metrics.video_metric import FrameGroundTruth


class Overlaps:
    """Counts of a video, collected frame by frame without keeping the maps.

    Args:
        num_classes: number K of classes; pixels predicted as another label are void.
    """

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self._true: dict[tuple[int, int], int] = {}  # (label, id) -> 1, 2, ...
        self._predicted: dict[tuple[int, int], int] = {}
        self._frames: list[np.ndarray] = []  # (n, 3) each: true, predicted, pixels

    def __len__(self) -> int:
        return len(self._frames)

    @property
    def true(self) -> np.ndarray:
        """Label and id of the ground-truth segments, (G, 2), int64."""
        return np.array(list(self._true), np.int64).reshape(-1, 2)

    @property
    def predicted(self) -> np.ndarray:
        """Label and id of the predicted segments, (P, 2), int64."""
        return np.array(list(self._predicted), np.int64).reshape(-1, 2)

    def add(self, ground_truth: FrameGroundTruth, panoptic: np.ndarray) -> None:
        """Add a frame.

        Args:
            ground_truth: of the frame; crowds, and pixels that no instance covers, are void.
            panoptic: (H, W), integers, label + 1000 * id.
        """
        true = np.zeros(panoptic.shape, np.int64)
        for id_, label, mask, is_crowd in zip(*ground_truth, strict=True):
            true[mask] = 0 if is_crowd else self._true.setdefault((int(label), int(id_)), len(self._true) + 1)
        codes = np.unique(panoptic.ravel()[run_starts(panoptic)])
        codes = codes[codes % INSTANCE_OFFSET < self.num_classes]
        pixels = count_overlap(true, np.arange(1, len(self._true) + 1), panoptic, codes)
        rows, columns = np.nonzero(pixels)
        numbers = np.array([0, *(self._number(code) for code in codes.tolist())])
        self._frames.append(np.column_stack([rows, numbers[columns], pixels[rows, columns]]))

    def _number(self, code: int) -> int:
        id_, label = divmod(code, INSTANCE_OFFSET)
        return self._predicted.setdefault((label, id_), len(self._predicted) + 1)

    def window(self, start: int, length: int) -> np.ndarray:
        """Common pixels of pairs in ``length`` frames from ``start`` on: (G + 1, P + 1), int64; row, column 0: void."""
        table = np.zeros((len(self._true) + 1, len(self._predicted) + 1), np.int64)
        for true, predicted, pixels in (part.T for part in self._frames[start : start + length]):
            table[true, predicted] += pixels  # pairs of a frame are unique
        return table

    def windows(self, length: int) -> Iterator[np.ndarray]:
        """Yield all windows of ``length`` frames; none if the video is shorter."""
        for start in range(len(self) - length + 1):
            yield self.window(start, length)
