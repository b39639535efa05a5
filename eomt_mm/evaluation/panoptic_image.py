"""Evaluate one image for panoptic quality, possibly in a worker process: nothing here imports mmdet."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from eomt_mm.annotations.masks import EXIF_HINT
from eomt_mm.annotations.panoptic_codes import INSTANCE_OFFSET
from eomt_mm.annotations.panoptic_png import check_present, read_panoptic_png, run_starts, write_panoptic_png
from eomt_mm.evaluation.pq_counting import checked_overlap, count_segments


class ImageSegments(NamedTuple):
    """Ground truth of an image.

    Attributes:
        ids: (H, W) as in `count_panoptic`, or the path of the PNG that holds them.
        segments: (G, 3) as in `count_panoptic`.
        origin: for messages.
        read: function that returns the content of the PNG.
    """

    ids: np.ndarray | str
    segments: np.ndarray
    origin: str
    read: Callable[[str], bytes] | None = None

    def load_ids(self) -> np.ndarray:
        """Return the ids (H, W); raises FileNotFoundError or ValueError for a missing or damaged PNG."""
        return read_panoptic_png(self.ids, self.read) if isinstance(self.ids, str) else self.ids


class RunMap(NamedTuple):
    """A map as runs of equal values, a tenth of the bytes, to be sent to another process.

    Attributes:
        values: (R,), integers, row by row.
        lengths: (R,), int32, pixels of each run.
        shape: (H, W).
    """

    values: np.ndarray
    lengths: np.ndarray
    shape: tuple[int, ...]

    @classmethod
    def of(cls, id_map: np.ndarray) -> 'RunMap':
        """Find the runs of a map (H, W)."""
        starts = run_starts(id_map)
        return cls(id_map.ravel()[starts], np.diff(starts, append=id_map.size).astype(np.int32), id_map.shape)

    def expand(self) -> np.ndarray:
        """Restore the map (H, W)."""
        return np.repeat(self.values, self.lengths).reshape(self.shape)


def count_image(
    image_id: Any,
    panoptic: np.ndarray | RunMap,
    category_ids: np.ndarray,
    true: ImageSegments | None,
    png: Path | None,
) -> dict[str, np.ndarray]:
    """Count an image and write its PNG.

    Args:
        image_id: for messages.
        panoptic: (H, W), label + 1000 * instance number.
        category_ids: (C,), of the labels.
        true: ground truth; None if there is none.
        png: where to write the prediction; None: do not write it.

    Returns:
        ``rows`` as from `count_panoptic`; with ``png`` also ``segments`` (P, 2), id in the file and category id.

    Raises:
        FileNotFoundError: the PNG of the ground truth does not exist.
        ValueError: it is damaged or has none of its segments, or the prediction differs from it in size.
    """
    if isinstance(panoptic, RunMap):
        panoptic = panoptic.expand()
    segments = predicted_segments(panoptic, category_ids)
    # An image without an annotation is entirely void: no prediction counts.
    found = {'rows': np.zeros((0, 5))}
    if true is not None:
        ids = true.load_ids()
        if ids.shape != panoptic.shape:
            raise ValueError(
                f'prediction of image {image_id} is {panoptic.shape}, ground truth {true.origin} {ids.shape} '
                f'(height, width): give both at the size of the original image; {EXIF_HINT}'
            )
        overlap = checked_overlap(ids, true.segments, panoptic, segments)
        if isinstance(true.ids, str):
            check_png(true.ids, ids, true.segments, overlap)
        found['rows'] = count_segments(overlap, true.segments[:, 1], true.segments[:, 2] != 0, segments[:, 1])
    if png is not None:
        # In files, id 0 is void; in mmdet's encoding, 0 is instance 0 of label 0.
        write_panoptic_png(png, np.where(np.isin(panoptic, segments[:, 0]), panoptic.astype(np.int64) + 1, 0))
        found['segments'] = segments + np.array([1, 0])
    return found


def check_png(path: str, ids: np.ndarray, segments: np.ndarray, overlap: np.ndarray) -> None:
    """Check that a PNG of the ground truth fits its JSON; see `check_present`.

    Args:
        path: of the PNG.
        ids: (H, W), its ids.
        segments: (G, 3), those that the JSON lists, as in `count_panoptic`.
        overlap: (G + 1, P + 1), from `checked_overlap`.
    """
    listed = segments[:, 0].tolist()
    is_complete = overlap[0].sum() == ids.size - np.count_nonzero(ids)
    unlisted = set() if is_complete else set(np.unique(ids).tolist()) - {0, *listed}
    check_present(path, listed, (overlap[1:].sum(axis=1) > 0).tolist(), unlisted)


def predicted_segments(panoptic: np.ndarray, category_ids: np.ndarray) -> np.ndarray:
    """Value in the map and category id (P, 2) of each segment that is not void."""
    values = np.unique(panoptic.ravel()[run_starts(panoptic)]).astype(np.int64)
    values = values[(values >= 0) & (values % INSTANCE_OFFSET < len(category_ids))]
    return np.stack([values, category_ids[values % INSTANCE_OFFSET]], axis=1)
