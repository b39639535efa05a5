"""Read and store segments as one integer map: shared code of the transforms that load such maps."""

import io
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import numpy as np
from mmcv.transforms import BaseTransform
from mmengine import fileio
from PIL import Image

from eomt_mm.annotations.masks import EXIF_HINT
from eomt_mm.annotations.panoptic_png import check_present, relabel_segments, run_starts
from eomt_mm.fileio.images import decode_image

Results = dict[str, Any]


class MapSegment(NamedTuple):
    """A segment of a map: ``value`` of its pixels in the file, ``label`` (class index), and whether it is a crowd."""

    value: int
    label: int
    is_crowd: bool


def store_segments(
    results: Results,
    ids: np.ndarray,
    segments: Sequence[MapSegment],
    with_crowds: bool,
    listed_for: str | None = None,
) -> None:
    """Renumber the segments of a map and add them to ``results``; drop segments without a pixel.

    Adds gt_seg_map (H, W), int32: 0 = void, 1 .. N segments with gt_segment_labels (N,), int64. If ``with_crowds`` is
    set, N + 1 .. N + M are crowds with gt_crowd_labels (M,), int64; otherwise crowds are void. The map is added to
    seg_fields, so that the hosts' transforms resize and crop it with the image (nearest neighbour).

    Args:
        results: of the pipeline, changed in place.
        ids: (H, W), integers; values that belong to no segment are void.
        segments: segments with unique values.
        with_crowds: keep crowds.
        listed_for: path of the map's PNG if a JSON lists its segments; None if they were found in the map itself.

    Raises:
        ValueError: none of the listed segments has a pixel.
    """
    whole = [segment for segment in segments if not segment.is_crowd]
    crowds = [segment for segment in segments if segment.is_crowd and with_crowds]
    rows = [(segment.value, segment.label) for segment in whole + crowds]
    values, labels = np.array(rows, dtype=np.int64).reshape(-1, 2).T
    results['gt_seg_map'], present = relabel_segments(ids, values)
    if listed_for is not None:
        check_present(listed_for, values.tolist(), present.tolist())
    count = len(whole)
    results['gt_segment_labels'] = labels[:count][present[:count]]
    if with_crowds:
        results['gt_crowd_labels'] = labels[count:][present[count:]]
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
        labels = {category: label for label, category in enumerate(results['category_ids'])}
        segments = []
        for code in np.unique(codes.ravel()[run_starts(codes)]).tolist():
            category, is_crowd = self._explain(code)
            if category in labels:
                segments.append(MapSegment(code, labels[category], is_crowd))
        store_segments(results, codes, segments, self.with_crowds)
        return results

    def _load_codes(self, results: Results) -> np.ndarray:
        """Read the map of codes, one code per segment, (H, W), int32; errors name the file."""
        raise NotImplementedError

    def _explain(self, code: int) -> tuple[int | None, bool]:
        """Return the category of a code (None: void) and whether it is a crowd."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return f'{type(self).__name__}(with_crowds={self.with_crowds}, backend_args={self.backend_args})'


def read_map(path: str, modes: Collection[str], meaning: str, backend_args: dict | None = None) -> np.ndarray:
    """Read a PNG whose pixel values are numbers, not colours.

    Args:
        path: of the file.
        modes: allowed Pillow modes, such as ('L',).
        meaning: expected content, for the message.
        backend_args: arguments of mmengine's file backend.

    Returns:
        (H, W) or (H, W, channels) as stored.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is not a complete PNG of one of these modes, or has too many pixels.
    """
    try:
        content = fileio.get(path, backend_args=backend_args)
    except FileNotFoundError as error:
        raise FileNotFoundError(f'annotation {path} does not exist: check data_root and data_prefix') from error
    kind = ('', '')

    def decode(content: bytes) -> np.ndarray:
        nonlocal kind
        with Image.open(io.BytesIO(content)) as image:
            kind = str(image.format), image.mode
            return np.asarray(image)

    values = decode_image(content, f'annotation {path}', decode)
    if kind[0] != 'PNG' or kind[1] not in modes:
        raise ValueError(
            f'annotation {path} is a {kind[0]} file of mode {kind[1]}: {meaning} needed; check data_prefix and suffixes'
        )
    return values


def image_size(results: Results) -> tuple[int, int] | None:
    """Size (height, width) of the image before any resizing; None if unknown."""
    if 'ori_shape' in results:
        return tuple(results['ori_shape'][:2])
    if 'height' in results and 'width' in results:
        return results['height'], results['width']
    return None


def check_size(path: str, shape: tuple[int, ...], results: Results) -> None:
    """Check that an annotation's ``shape`` (height, width) is the image's size; raises ValueError if not."""
    size = image_size(results)
    if size is not None and tuple(shape) != size:
        raise ValueError(
            f'annotation {path} is {tuple(shape)}, its image {results.get("img_path")} {size} (height, width): '
            f'{EXIF_HINT}'
        )
