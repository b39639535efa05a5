"""What is done with one image for panoptic quality, in the process of the metric or in a worker.

Workers import this module and nothing of mmdet.
"""

import os
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
        ids: (H, W) as in `count_panoptic`, or the PNG that holds them.
        segments: (G, 3) as in `count_panoptic`.
        origin: for messages.
        read: gets the content of the PNG.
    """

    ids: np.ndarray | str
    segments: np.ndarray
    origin: str
    read: Callable[[str], bytes] | None = None

    def load_ids(self) -> np.ndarray:
        """(H, W); raises FileNotFoundError and ValueError for a PNG that is missing or damaged."""
        return read_panoptic_png(self.ids, self.read) if isinstance(self.ids, str) else self.ids


class RunMap(NamedTuple):
    """A piecewise constant map as its runs, a tenth of its size, as it goes to another process.

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
        """Of a map (H, W)."""
        starts = run_starts(id_map)
        return cls(id_map.ravel()[starts], np.diff(starts, append=id_map.size).astype(np.int32), id_map.shape)

    def expand(self) -> np.ndarray:
        """The map (H, W)."""
        return np.repeat(self.values, self.lengths).reshape(self.shape)


def count_image(
    image_id: Any,
    panoptic: np.ndarray | RunMap,
    category_ids: np.ndarray,
    true: ImageSegments | None,
    png: Path | None,
) -> dict[str, np.ndarray]:
    """Counts an image and writes its PNG.

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
        # Id 0 is void in files, and instance 0 of label 0 before.
        write_panoptic_png(png, np.where(np.isin(panoptic, segments[:, 0]), panoptic.astype(np.int64) + 1, 0))
        found['segments'] = segments + np.array([1, 0])
    return found


def count_files(
    seg_prefix: str,
    result_folder: str,
    category_ids: frozenset[int],
    true: Mapping[str, Any],
    result: Mapping[str, Any],
) -> np.ndarray:
    """Rows of `count_panoptic` of an image, both of whose PNGs are read.

    Args:
        seg_prefix: folder of the PNG of the ground truth.
        result_folder: folder of that of the result.
        category_ids: all there are.
        true: annotation of the image, with 'file_name' and 'segments_info'.
        result: the same of the prediction.

    Raises:
        FileNotFoundError: a PNG does not exist.
        ValueError: a PNG is damaged, or does not fit its annotation or the other one.
    """
    segments = np.array([(one['id'], one['category_id']) for one in result['segments_info']], np.int64).reshape(-1, 2)
    gt_ids = read_panoptic_png(os.path.join(seg_prefix, true['file_name']))
    path = os.path.join(result_folder, result['file_name'])
    pred_ids = read_panoptic_png(path)
    unknown = set(segments[:, 1].tolist()) - category_ids
    if unknown:
        raise ValueError(f"{path}: categories {sorted(unknown)} are not in the ground truth's json: give its ids")
    try:
        return count_panoptic(gt_ids, listed_segments(true['segments_info']), pred_ids, segments, only_listed=True)
    except ValueError as error:
        raise ValueError(f'{path}: {error}') from error


def listed_segments(segments_info: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """(G, 3) of `count_panoptic`, from the entries of a json."""
    rows = [(segment['id'], segment['category_id'], bool(segment.get('iscrowd'))) for segment in segments_info]
    return np.array(rows, dtype=np.int64).reshape(-1, 3)


def predicted_segments(panoptic: np.ndarray, category_ids: np.ndarray) -> np.ndarray:
    """(P, 2): value in the map and category id of each segment that is not void."""
    values = np.unique(panoptic.ravel()[run_starts(panoptic)]).astype(np.int64)
    values = values[(values >= 0) & (values % INSTANCE_OFFSET < len(category_ids))]
    return np.stack([values, category_ids[values % INSTANCE_OFFSET]], axis=1)
