"""Segments as one integer map: read maps of codes, and renumber the segments of a map."""

import io
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from eomt_mm.annotations.masks import EXIF_HINT
from eomt_mm.annotations.panoptic_png import check_present, relabel_segments, run_starts
from eomt_mm.fileio.images import decode_image, stored_values

Read = Callable[[str], bytes]  # returns the content of a path
Size = tuple[int, int]  # (height, width)
# From the code of a pixel to its category (None: void), and whether it is a crowd.
Explain = Callable[[int], tuple[int | None, bool]]


class MapSegment(NamedTuple):
    """A segment of a map: ``value`` of its pixels in the file, ``label`` (class index), and whether it is a crowd."""

    value: int
    label: int
    is_crowd: bool


class NumberedSegments(NamedTuple):
    """Segments of an image, numbered from 1.

    Attributes:
        ids: (H, W), int32: 0 = void, 1 .. N segments, N + 1 .. N + M crowds.
        labels: (N,), int64, of the segments.
        crowd_labels: (M,), int64, of the crowds.
    """

    ids: np.ndarray
    labels: np.ndarray
    crowd_labels: np.ndarray


def read_local(path: str) -> bytes:
    """Read a file of a local disk."""
    return Path(path).read_bytes()


def number_segments(
    ids: np.ndarray,
    segments: Sequence[MapSegment],
    with_crowds: bool,
    listed_for: str | None = None,
    other_ids: Collection[int] | None = None,
) -> NumberedSegments:
    """Renumber the segments of a map; drop segments without a pixel.

    Args:
        ids: (H, W), integers; values that belong to no segment are void.
        segments: segments with unique values.
        with_crowds: keep crowds; otherwise they are void.
        listed_for: path of the map's PNG if a JSON lists its segments; None if they were found in the map itself.
        other_ids: values of the JSON's segments that are not in ``segments``; None: values that no segment has are not
            checked.

    Raises:
        ValueError: none of the listed segments has a pixel.
    """
    whole = [segment for segment in segments if not segment.is_crowd]
    crowds = [segment for segment in segments if segment.is_crowd and with_crowds]
    rows = [(segment.value, segment.label) for segment in whole + crowds]
    values, labels = np.array(rows, dtype=np.int64).reshape(-1, 2).T
    numbers, present, others = relabel_segments(ids, values)
    if listed_for is not None:
        known = {0, *(segment.value for segment in segments), *(other_ids or ())}
        unlisted = set() if other_ids is None else set(others.tolist()) - known
        check_present(listed_for, values.tolist(), present.tolist(), unlisted)
    count = len(whole)
    return NumberedSegments(numbers, labels[:count][present[:count]], labels[count:][present[count:]])


def coded_segments(codes: np.ndarray, category_ids: Sequence[int], explain: Explain) -> list[MapSegment]:
    """List the segments of a map of codes (H, W), one code per segment, whose category is among ``category_ids``."""
    labels = {category: label for label, category in enumerate(category_ids)}
    segments = []
    for code in np.unique(codes.ravel()[run_starts(codes)]).tolist():
        category, is_crowd = explain(code)
        if category in labels:
            segments.append(MapSegment(code, labels[category], is_crowd))
    return segments


def read_map(path: str, modes: Collection[str], meaning: str, read: Read = read_local) -> np.ndarray:
    """Read a PNG whose pixel values are numbers, not colours.

    Args:
        path: of the file.
        modes: allowed Pillow modes, such as ('L',).
        meaning: expected content, for the message.
        read: function that returns the content of a path, for files that are not on a local disk.

    Returns:
        (H, W) or (H, W, channels) as stored.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is not a complete PNG of one of these modes, or has too many pixels.
    """
    try:
        content = read(path)
    except FileNotFoundError as error:
        raise FileNotFoundError(f'annotation {path} does not exist: check data_root and data_prefix') from error
    kind = ('', '')

    def decode(content: bytes) -> np.ndarray:
        nonlocal kind
        with Image.open(io.BytesIO(content)) as image:
            kind = str(image.format), image.mode
            return stored_values(np.asarray(image), content)

    values = decode_image(content, f'annotation {path}', decode)
    if kind[0] != 'PNG' or kind[1] not in modes:
        raise ValueError(
            f'annotation {path} is a {kind[0]} file of mode {kind[1]}: {meaning} needed; check data_prefix and suffixes'
        )
    return values


def check_same_size(path: str, shape: tuple[int, ...], size: Size | None, image: str | None) -> None:
    """Check that an annotation's ``shape`` (height, width) is the image's ``size``, if that is known.

    Raises:
        ValueError: it is not; the message names both files.
    """
    if size is not None and tuple(shape) != tuple(size):
        raise ValueError(
            f'annotation {path} is {tuple(shape)}, its image {image} {tuple(size)} (height, width): {EXIF_HINT}'
        )
