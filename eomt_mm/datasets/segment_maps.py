"""Store segments as one integer map in the items of pipelines: shared code of the transforms that load such maps."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from mmcv.transforms import BaseTransform
from mmengine import fileio

from eomt_mm.annotations.segments import MapSegment, check_same_size, coded_segments, number_segments

Results = dict[str, Any]


def store_segments(
    results: Results,
    ids: np.ndarray,
    segments: Sequence[MapSegment],
    with_crowds: bool,
    listed_for: str | None = None,
) -> None:
    """Renumber the segments of a map and add them to ``results``; arguments and errors are those of `number_segments`.

    Adds gt_seg_map (H, W), int32: 0 = void, 1 .. N segments with gt_segment_labels (N,), int64. If ``with_crowds`` is
    set, N + 1 .. N + M are crowds with gt_crowd_labels (M,), int64; otherwise crowds are void. The map is added to
    seg_fields, so that the hosts' transforms resize and crop it with the image (nearest neighbour).
    """
    found = number_segments(ids, segments, with_crowds, listed_for, results.get('other_ids', ()))
    results['gt_seg_map'], results['gt_segment_labels'] = found.ids, found.labels
    if with_crowds:
        results['gt_crowd_labels'] = found.crowd_labels
    fields = results.setdefault('seg_fields', [])
    if 'gt_seg_map' not in fields:
        fields.append('gt_seg_map')


class LoadSegments(BaseTransform):
    """Load the segments of a data set whose files have one code per pixel; subclasses read and decode the codes.

    Needs ``seg_map_path`` and ``category_ids`` (see `FolderDataset`). Adds the keys of `store_segments`; segments of
    categories that are not among ``category_ids`` are void. Without ``seg_map_path`` nothing is added: the hosts'
    inferencers pass images without it.

    Args:
        with_crowds: keep crowd regions, for test pipelines; otherwise they are void.
        backend_args: arguments of mmengine's file backend.
    """

    def __init__(self, with_crowds: bool = False, backend_args: dict | None = None) -> None:
        self.with_crowds = with_crowds
        self.backend_args = backend_args

    def transform(self, results: Results) -> Results:
        """Load the maps of one item."""
        if results.get('seg_map_path') is None:
            return results
        if 'category_ids' not in results:
            raise ValueError(
                f'image {results.get("img_path")} has no category_ids: {type(self).__name__} loads the items of the '
                'data sets of its own module'
            )
        codes = self._load_codes(results)
        store_segments(results, codes, coded_segments(codes, results['category_ids'], self._explain), self.with_crowds)
        return results

    def _load_codes(self, results: Results) -> np.ndarray:
        """Read the map of codes, one code per segment, (H, W), int32, with ``_read``; errors name the file."""
        raise NotImplementedError

    def _read(self, path: str) -> bytes:
        content: bytes = fileio.get(path, backend_args=self.backend_args)
        return content

    def _explain(self, code: int) -> tuple[int | None, bool]:
        """Return the category of a code (None: void) and whether it is a crowd."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return f'{type(self).__name__}(with_crowds={self.with_crowds}, backend_args={self.backend_args})'


def image_size(results: Results) -> tuple[int, int] | None:
    """Size (height, width) of the image before any resizing; None if unknown."""
    if 'ori_shape' in results:
        return tuple(results['ori_shape'][:2])
    if 'height' in results and 'width' in results:
        return results['height'], results['width']
    return None


def check_size(path: str, shape: tuple[int, ...], results: Results) -> None:
    """Check that an annotation's ``shape`` (height, width) is the image's size; raises ValueError if not."""
    check_same_size(path, shape, image_size(results), results.get('img_path'))
