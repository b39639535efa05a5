"""Work on an image for panoptic quality, which may run in a worker process: nothing here imports mmdet."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from eomt_mm.annotations.masks import EXIF_HINT
from eomt_mm.annotations.panoptic_png import read_panoptic_png, run_starts, write_panoptic_png
from eomt_mm.evaluation.pq_counting import count_panoptic

# mmdet's encoding of a predicted pixel, label + 1000 * number of the instance (mmdet.evaluation.functional).
INSTANCE_OFFSET = 1000


class ImageSegments(NamedTuple):
    """Ground truth of an image.

    Attributes:
        ids: (H, W) as in `count_panoptic`, or the path of the PNG that holds them.
        segments: (G, 3) as in `count_panoptic`.
        origin: for messages.
        read: gives the content of the PNG.
    """

    ids: np.ndarray | str
    segments: np.ndarray
    origin: str
    read: Callable[[str], bytes] | None = None

    def load_ids(self) -> np.ndarray:
        """(H, W); raises FileNotFoundError and ValueError for a PNG that is missing or damaged."""
        return read_panoptic_png(self.ids, self.read) if isinstance(self.ids, str) else self.ids


class RunMap(NamedTuple):
    """A map as its runs, a tenth of the bytes, as it goes to another process.

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
        panoptic: (H, W), label + 1000 * number of the instance.
        category_ids: (C,), of the labels.
        true: ground truth; None where there is nothing to compare with.
        png: where to write the prediction.

    Returns:
        ``rows`` of `count_panoptic`; with ``png`` also ``segments`` (P, 2), id in the file and category id.

    Raises:
        FileNotFoundError: the PNG of the ground truth does not exist.
        ValueError: it is damaged, or the prediction has another size.
    """
    if isinstance(panoptic, RunMap):
        panoptic = panoptic.expand()
    segments = predicted_segments(panoptic, category_ids)
    # Without annotation all is void, where nothing can be right or wrong.
    found = {'rows': np.zeros((0, 5))}
    if true is not None:
        ids = true.load_ids()
        if ids.shape != panoptic.shape:
            raise ValueError(
                f'prediction of image {image_id} is {panoptic.shape}, ground truth {true.origin} {ids.shape} '
                f'(height, width): give both at the size of the original image; {EXIF_HINT}'
            )
        found['rows'] = count_panoptic(ids, true.segments, panoptic, segments)
    if png is not None:
        # In files id 0 is void; in mmdet's encoding it is instance 0 of label 0.
        write_panoptic_png(png, np.where(np.isin(panoptic, segments[:, 0]), panoptic.astype(np.int64) + 1, 0))
        found['segments'] = segments + np.array([1, 0])
    return found


def listed_segments(segments_info: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """Segments (G, 3) of `count_panoptic` from the entries of a json."""
    rows = [(segment['id'], segment['category_id'], bool(segment.get('iscrowd'))) for segment in segments_info]
    return np.array(rows, dtype=np.int64).reshape(-1, 3)


def predicted_segments(panoptic: np.ndarray, category_ids: np.ndarray) -> np.ndarray:
    """Value in the map and category id (P, 2) of each segment that is not void."""
    values = np.unique(panoptic.ravel()[run_starts(panoptic)]).astype(np.int64)
    values = values[(values >= 0) & (values % INSTANCE_OFFSET < len(category_ids))]
    return np.stack([values, category_ids[values % INSTANCE_OFFSET]], axis=1)
