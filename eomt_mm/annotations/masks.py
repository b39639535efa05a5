"""Check masks of annotation and result files before passing them to pycocotools, whose C code checks nothing.

In pycocotools, a NaN or a coordinate of 1e9 crashes the process, and a damaged string of run lengths loops forever. The
rules:

- Polygons are a ring or a list of rings. A ring is a flat list [x, y, x, y, ...] or a list of [x, y] pairs (pixels).
- Coordinates are finite and at most one image side outside the image; their count is even.
- Rings of fewer than 3 points enclose nothing and are dropped. A mask without any other ring has no outline.
- An empty list, as in files of boxes only, means "no mask".
- The total length of a mask's outlines is at most that of the edges of all pixels of the image: pycocotools allocates
  memory for five steps per pixel of outline.
- Run lengths, compressed or not, have the image's size, are not negative, and add up to its number of pixels.
"""

import math
import re
from collections.abc import Sequence
from typing import Any, Literal

import cv2
import numpy as np
from pycocotools import mask as mask_api

EXIF_HINT = (
    'resized, or rotated by EXIF? Pair the right files; where the image is rotated by its EXIF tag and its annotation '
    "is not, load it with color_type='color_ignore_orientation'"
)
# Run lengths in pycocotools' form: 'size' [height, width] and 'counts', compressed (bytes or str).
RLE = dict[str, Any]
Rings = list[list[float]]
Size = tuple[int, int]

# Defects of a mask that breaks no rule: it has no pixel, or its coordinates are normalised (at most a corner pixel).
Defect = Literal['', 'no pixel', 'normalised']
NO_PIXEL: Defect = 'no pixel'
NORMALISED: Defect = 'normalised'
# From this image side on, a polygon within the first pixel is a mistake.
MIN_SIDE = 8
# Counts of run lengths and pycocotools' own arithmetic have 32 bits.
MAX_SIDE = 65535
# In compressed run lengths, a character of at least MORE is followed by another character of the same number. A run has
# 33 bits with its sign, five per character.
MORE = 80
MAX_DIGITS = 7
COMPRESSED = re.compile(rb'(?:[P-o]{0,6}[0-O])+')
# pycocotools (2.0.11) returns areas through an array whose length it stores in a byte; numpy 2 refuses more.
MAX_AREAS = 255


def normalise(mask: Any, size: Size, whose: str) -> Rings | RLE | None:
    """Check a mask and convert it to one of two forms.

    Args:
        mask: as in "segmentation": polygons, or a dict of run lengths.
        size: (height, width) of the image.
        whose: file, annotation and image, for messages.

    Returns:
        Flat rings of 3 or more points, or compressed run lengths; None if the mask has no outline.

    Raises:
        ValueError: the mask breaks one of the rules of this module.
    """
    return examine(mask, size, whose)[0]


def examine(mask: Any, size: Size, whose: str) -> tuple[Rings | RLE | None, Defect]:
    """Do as `normalise`, and also return the mask's defect: no pixel in the image, or all coordinates in [0, 1]."""
    if isinstance(mask, dict):
        rle = _normalise_runs(mask, size, whose)
        # An empty mask is a single run, whose string is at most this long.
        return rle, NO_PIXEL if len(rle['counts']) <= MAX_DIGITS and not areas([rle])[0] else ''
    if not isinstance(mask, list):
        raise ValueError(f'{whose}: its mask is {_short(mask)}: give polygons or run lengths')
    rings = _flat_rings(mask, whose)
    are_small = [_check_ring(ring, size, whose) for ring in rings]
    rings = [ring for ring in rings if len(ring) >= 6]
    _check_length(rings, size, whose)
    if not rings or not all(are_small):
        return rings or None, ''
    if min(size) >= MIN_SIDE and all(min(ring) >= 0 and max(ring) <= 1 for ring in rings):
        return rings, NORMALISED
    return rings, '' if areas([to_rle(rings, size)])[0] else NO_PIXEL


def check_runs(mask: Any, whose: str) -> RLE:
    """Check run lengths against the image size that they state, as for predictions; see `normalise`."""
    stated = mask.get('size') if isinstance(mask, dict) else None
    size = tuple(stated) if isinstance(stated, list | tuple) else ()
    if len(size) != 2 or not all(isinstance(side, int) and 1 <= side <= MAX_SIDE for side in size):
        raise ValueError(f'{whose}: {_short(mask)} is not a run-length mask with "size" [height, width] and "counts"')
    return _normalise_runs(mask, size, whose)


def to_rle(mask: Rings | RLE, size: Size) -> RLE:
    """Rasterise what `normalise` returned to compressed run lengths for an image of ``size`` (height, width)."""
    if isinstance(mask, dict):
        return mask
    found: list[RLE] = mask_api.frPyObjects(mask, *size)
    # Merging one by one takes quadratic time: a minute for 30,000 rings.
    while len(found) > 1:
        found = [mask_api.merge(found[start : start + 8]) for start in range(0, len(found), 8)]
    # Text, as in files: mmdet treats bytes as a damaged mask.
    return {'size': list(size), 'counts': found[0]['counts'].decode()}


def as_text(rle: RLE) -> RLE:
    """Convert run lengths to the form of JSON files: counts as text, not bytes."""
    counts = rle['counts']
    return {'size': list(rle['size']), 'counts': counts.decode() if isinstance(counts, bytes) else counts}


def decode(mask: Rings | RLE, size: Size) -> np.ndarray:
    """Decode what `normalise` returned to pixels: (H, W), uint8, 0 or 1."""
    pixels: np.ndarray = mask_api.decode(to_rle(mask, size))
    return pixels


def encode_masks(masks: np.ndarray) -> list[RLE]:
    """Encode masks (N, H, W), bool or uint8 0 and 1, as run lengths; masks may overlap."""
    # pycocotools reads column by column. OpenCV transposes bytes several times faster than numpy and torch do, which
    # halves the time of this function.
    return [mask_api.encode(cv2.transpose(mask).T) for mask in masks.view(np.uint8)]


def decode_mask(rle: RLE) -> np.ndarray:
    """Decode compressed run lengths, as `encode_masks` returns them, to a mask (H, W), bool, row by row in memory."""
    mask: np.ndarray = cv2.transpose(mask_api.decode(rle).T)  # see encode_masks
    return mask.view(bool)


def areas(rles: Sequence[RLE]) -> np.ndarray:
    """Number of pixels of each of N masks: (N,), int64."""
    parts = [mask_api.area(list(rles[start : start + MAX_AREAS])) for start in range(0, len(rles), MAX_AREAS)]
    return np.concatenate([np.zeros(0, np.int64), *parts]).astype(np.int64)


def is_blank(rle: RLE) -> bool:
    """Return whether run lengths of a file have no pixel. Damaged ones are not recognised; their sum is not checked."""
    counts = rle['counts']
    if isinstance(counts, list):
        return len(counts) < 4 and not any(counts[1::2])
    # A blank mask is a single run, whose string is at most this long.
    return (
        len(counts) <= MAX_DIGITS
        and bool(COMPRESSED.fullmatch(counts.encode(errors='replace')))
        and (len(parse_runs(counts, '')) == 1)
    )


def box(mask: Rings | RLE, size: Size) -> list[float]:
    """Bounding box [x, y, width, height] (pixels) of what `normalise` returned."""
    found: list[float] = mask_api.toBbox(to_rle(mask, size)).tolist()
    return found


def _flat_rings(mask: list[Any], whose: str) -> Rings:
    """Convert the rings of a mask, in any accepted form, to flat lists."""
    if not mask or not isinstance(mask[0], list):
        return [mask]
    if not all(isinstance(ring, list) for ring in mask):
        raise ValueError(f'{whose}: its polygons {_short(mask)} mix numbers and lists: correct it')
    if _is_pairs(mask) and not isinstance(mask[0][0], list):
        return [_joined(mask)]
    return [_joined(ring) if _is_pairs(ring) else ring for ring in mask]


def _is_pairs(ring: list[Any]) -> bool:
    return bool(ring) and all(isinstance(point, list) and len(point) == 2 for point in ring)


def _joined(points: list[list[float]]) -> list[float]:
    return [value for point in points for value in point]


def _check_ring(ring: list[float], size: Size, whose: str) -> bool:
    """Reject rings that pycocotools cannot handle. Plain Python is faster than arrays for lists of this length.

    Returns:
        whether the ring may have no pixel because it is small or outside the image.
    """
    height, width = size
    try:
        # NaN compares as false with everything, but propagates to the sum.
        is_finite = math.isfinite(sum(ring))
    except (TypeError, OverflowError) as error:
        raise ValueError(f'{whose}: a polygon is not a list of numbers ({_short(ring)}): correct it') from error
    if len(ring) % 2:
        raise ValueError(f'{whose}: a polygon has {len(ring)} numbers, each point needs two: correct {_short(ring)}')
    if not ring:
        return True
    xs, ys = ring[::2], ring[1::2]
    left, right, top, bottom = min(xs), max(xs), min(ys), max(ys)
    within = -width <= left and right <= 2 * width and -height <= top and bottom <= 2 * height
    if not (is_finite and within):
        sides = (width, height) * len(xs)
        bad = next((v for v, side in zip(ring, sides, strict=True) if not -side <= v <= 2 * side), 'an infinite sum')
        raise ValueError(
            f'{whose}: a polygon has the coordinate {_short(bad)}, which is not a number within one side of the image '
            f'{size} (height, width): correct it'
        )
    return right - left <= 1 or bottom - top <= 1 or right <= 0 or bottom <= 0 or left >= width or top >= height


def _check_length(rings: Rings, size: Size, whose: str) -> None:
    height, width = size
    longest = 4 * (height + 4) * (width + 4)
    # With so few points, the outline cannot be too long, however far apart they are.
    if sum(map(len, rings)) * 3 * max(size) <= 2 * longest:
        return
    length = 0.0
    for ring in rings:
        points = np.array(ring, dtype=np.float64).reshape(-1, 2)
        length += float(np.abs(points - np.roll(points, 1, axis=0)).max(axis=1).sum())
    if length > longest:
        raise ValueError(
            f'{whose}: the outline of its polygons is {length:.0f} pixels long, more than an image {size} (height, '
            f'width) can hold ({longest}): simplify or correct it'
        )


def _normalise_runs(mask: dict[str, Any], size: Size, whose: str) -> RLE:
    stated, counts = mask.get('size'), mask.get('counts')
    if not isinstance(stated, list | tuple) or tuple(stated) != size:
        raise ValueError(
            f'{whose}: its run lengths have size {_short(stated)}, the image {size} (height, width): {EXIF_HINT}'
        )
    runs = parse_runs(counts, whose) if isinstance(counts, str | bytes) else _as_runs(counts, whose)
    pixels = size[0] * size[1]
    total = int(runs.sum()) if runs.size and 0 <= runs.min() <= runs.max() <= pixels else None
    if total != pixels:
        what = f'add up to {total}' if total is not None else 'are empty, negative or too long'
        raise ValueError(
            f'{whose}: its run lengths {what}; they do not add up to the {size[0]} x {size[1]} pixels of the image: '
            'correct or remove it'
        )
    is_plain = runs.size == 1 or bool(runs[1:].min() > 0)
    if not is_plain or not isinstance(counts, str | bytes):
        kept = runs if is_plain else _without_empty(runs)
        counts = mask_api.frPyObjects({'size': list(size), 'counts': kept.tolist()}, *size)['counts']
    return {'size': list(size), 'counts': counts.decode() if isinstance(counts, bytes) else counts}


def parse_runs(counts: str | bytes, whose: str) -> np.ndarray:
    """Parse COCO's compressed run lengths, without pycocotools, which reads past the end of a damaged string.

    Each character, less 48, holds 5 bits of a number, lowest first. Bit 6 is set if more characters of the number
    follow; the highest bit of the last character is the sign. From the fourth number on, numbers are differences from
    the run two places before.

    Args:
        counts: the string.
        whose: for messages.

    Returns:
        (N,), int64; may be negative.

    Raises:
        ValueError: the string is empty, has invalid characters, or contains an incomplete number.
    """
    text = counts.encode(errors='replace') if isinstance(counts, str) else counts
    if not COMPRESSED.fullmatch(text):
        raise ValueError(f'{whose}: its compressed run lengths {_short(counts)} are damaged: correct or remove it')
    codes = np.frombuffer(text, np.uint8)
    ends = (codes < MORE).nonzero()[0]
    lengths = ends.copy()
    lengths[0] += 1
    lengths[1:] -= ends[:-1]
    digits = (codes & 31).astype(np.int64)
    digits ^= 16  # the codes begin at 48, whose lower five bits are 16
    runs = digits[ends]
    runs -= (runs & 16) << 1  # the sign
    for step in range(1, int(lengths.max())):
        longer = (lengths > step).nonzero()[0]
        runs[longer] = (runs[longer] << 5) + digits[ends[longer] - step]
    np.cumsum(runs[1::2], out=runs[1::2])
    np.cumsum(runs[2::2], out=runs[2::2])
    return runs


def _as_runs(counts: Any, whose: str) -> np.ndarray:
    try:
        runs = np.asarray(counts if isinstance(counts, list) else 'none')
    except (ValueError, OverflowError):  # a list of lists of different lengths
        runs = np.asarray('none')
    if runs.ndim != 1 or (runs.dtype.kind not in 'iu' and runs.size):
        raise ValueError(f'{whose}: its run lengths have counts {_short(counts)}: give whole numbers or a string')
    return runs


def _without_empty(runs: np.ndarray) -> np.ndarray:
    """Remove empty runs by joining their neighbours: they make pycocotools stop comparing two masks too early."""
    edges, times = np.unique(np.cumsum(runs)[:-1], return_counts=True)
    total = int(runs.sum())
    edges = edges[(times % 2 == 1) & (edges < total)]
    return np.diff(edges, prepend=0, append=total)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f'{text[:57]}...'
