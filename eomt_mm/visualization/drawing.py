"""Coloured masks over an image, with outlines and names."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeAlias

import cv2
import numpy as np
from PIL import Image

from eomt_mm.visualization.captions import Caption, thickest_point, write_captions
from eomt_mm.visualization.palettes import Colour, shade

# Pictures with a shorter side are enlarged, so that names stay legible, as long as no side gets longer than MAX_SIDE.
MIN_SIDE, MAX_SIDE = 320, 2048
OUTLINE_SHARE = 500  # short side of the picture, in thicknesses of an outline
# A picture is crowded if it has more segments than MANY and, on average, OVERLAP masks per covered pixel.
MANY, OVERLAP = 12, 1.4
NUM_NAMES = 15  # in a crowded picture
Box = tuple[slice, slice]  # rows and columns
CROSS = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
Mask: TypeAlias = np.ndarray | Callable[[], np.ndarray]  # (H, W) bool, or a function that returns it


@dataclass(frozen=True)
class DrawnSegment:
    """A mask with its class name, RGB colour and, for predictions, score in [0, 1].

    ``source`` may be a function that computes the mask: the masks of many segments of a large image would fill the
    memory.
    """

    source: Mask
    name: str
    colour: Colour
    score: float | None = None

    @property
    def mask(self) -> np.ndarray:
        """The mask (H, W) bool; computed every time if the segment does not hold it."""
        return self.source() if callable(self.source) else self.source

    @property
    def caption(self) -> str:
        return self.name if self.score is None else f'{self.name} {self.score:.2f}'


class Shown(NamedTuple):
    """A segment with pixels, its box and area. Its mask is read once per step, and not kept."""

    segment: DrawnSegment
    box: Box
    area: int

    def crop(self) -> np.ndarray:
        """The mask within the box."""
        return self.segment.mask[self.box]


def class_segments(
    masks: Iterable[Mask],
    labels: Sequence[int],
    meta: Mapping[str, Any],
    scores: Sequence[float | None] | None = None,
) -> list[DrawnSegment]:
    """Segments in the colours of their classes; further segments of a class get shades of its colour.

    Args:
        masks: N masks (H, W), bool, or functions that return them.
        labels: N class indices.
        meta: of a data set: ``classes`` and ``palette``.
        scores: in [0, 1], for predictions.
    """
    seen: Counter[int] = Counter()
    segments = []
    for mask, label, score in zip(masks, labels, scores or [None] * len(labels), strict=True):
        r, g, b = meta['palette'][label]
        segments.append(DrawnSegment(mask, meta['classes'][label], shade((int(r), int(g), int(b)), seen[label]), score))
        seen[label] += 1
    return segments


def draw_segments(
    image: np.ndarray,
    segments: Sequence[DrawnSegment],
    opacity: float = 0.55,
    hatch_void: bool = False,
    max_side: int | None = None,
) -> Image.Image:
    """Draw segments over an image.

    Where many segments overlap, only their outlines are drawn, those of the best on top, and only the best are named;
    without scores the best are the largest.

    Args:
        image: (H, W, 3) uint8 RGB.
        segments: drawn in this order; a name is left out if its segment is too small for it, or if the name of a
            larger segment is in its place.
        opacity: of the colours, in [0, 1].
        hatch_void: hatch the pixels of no segment; otherwise they show the image.
        max_side: pictures with a longer side than this are shrunk first.

    Returns:
        picture, enlarged by a whole factor if its short side is below 320 pixels, up to a long side of 2048.

    Raises:
        ValueError: a mask has another size than the image.
    """
    h, w = image.shape[:2]
    if max_side is not None and max(h, w) > max_side:
        image, segments = _shrink(image, segments, max_side / max(h, w))
    factor = max(1, min(-(-MIN_SIDE // min(image.shape[:2])), MAX_SIDE // max(image.shape[:2])))
    shown = list(_shown(segments, image.shape[:2]))
    layers = _layers(shown, image.shape[:2])
    crowded = len(shown) > MANY and layers.sum() > OVERLAP * np.count_nonzero(layers)
    if crowded:
        shown.sort(key=lambda one: (one.segment.score or 0, one.area))
    canvas = enlarge(np.array(image) if crowded else _coloured(image, shown, opacity), factor)
    if hatch_void:
        _hatch(canvas, enlarge(layers == 0, factor))
    thickness = max(1, round((1 + crowded) * min(canvas.shape[:2]) / OUTLINE_SHARE))
    for one in shown:
        edge = outline(enlarge(one.crop(), factor), thickness)
        canvas[_scaled(one.box, factor)][edge] = one.segment.colour
    drawn = Image.fromarray(canvas)
    named = shown[-NUM_NAMES:] if crowded else shown
    write_captions(drawn, [_caption(one) for one in named], factor)
    return drawn


def _shown(segments: Iterable[DrawnSegment], size: tuple[int, int]) -> Iterator[Shown]:
    """Segments with pixels; raises ValueError for a mask of another size (height, width)."""
    for segment in segments:
        mask = segment.mask
        _check_size(segment, mask, size)
        if mask.any():
            yield Shown(segment, box_of(mask), int(np.count_nonzero(mask)))


def _check_size(segment: DrawnSegment, mask: np.ndarray, size: tuple[int, ...]) -> None:
    if mask.shape != size:
        raise ValueError(f"mask of '{segment.name}' is {mask.shape}, the image {size} (height, width)")


def _caption(one: Shown) -> Caption:
    return one.segment.caption, one.segment.colour, one.area, thickest_point(one.crop()), one.box


def _layers(shown: Iterable[Shown], size: tuple[int, int]) -> np.ndarray:
    """Number of segments (H, W) over each pixel."""
    layers = np.zeros(size, np.uint16)
    for one in shown:
        layers[one.box] += one.crop()
    return layers


def _coloured(image: np.ndarray, shown: Iterable[Shown], opacity: float) -> np.ndarray:
    """The image with the colours of the segments."""
    picture = np.array(image)
    for one in shown:
        part = picture[one.box]
        blended = cv2.addWeighted(part, 1 - opacity, np.full_like(part, one.segment.colour), opacity, 0)
        np.copyto(part, blended, where=one.crop()[..., None])
    return picture


def box_of(mask: np.ndarray) -> Box:
    """Rows and columns of a mask's smallest box; the mask is not empty."""
    x, y, w, h = cv2.boundingRect(np.ascontiguousarray(mask).view(np.uint8))
    return slice(y, y + h), slice(x, x + w)


def enlarge(array: np.ndarray, factor: int) -> np.ndarray:
    """Repeat pixels: (H, W, ...) to (factor * H, factor * W, ...)."""
    return array if factor == 1 else array.repeat(factor, axis=0).repeat(factor, axis=1)


def outline(mask: np.ndarray, thickness: int = 1) -> np.ndarray:
    """Pixels of a mask (H, W) bool from which at most ``thickness`` steps to a 4-neighbour lead out of it."""
    inner = cv2.erode(
        np.ascontiguousarray(mask).view(np.uint8), CROSS, iterations=thickness,
        borderType=cv2.BORDER_CONSTANT, borderValue=0,
    )  # fmt: skip
    return mask & (inner == 0)


def _scaled(box: Box, factor: int) -> Box:
    rows, cols = (slice(factor * part.start, factor * part.stop) for part in box)
    return rows, cols


def _shrink(image: np.ndarray, segments: Sequence[DrawnSegment], scale: float) -> tuple[np.ndarray, list[DrawnSegment]]:
    h, w = (max(1, round(scale * side)) for side in image.shape[:2])
    shrunk = []
    for segment in segments:
        mask = segment.mask
        _check_size(segment, mask, image.shape[:2])
        small = cv2.resize(np.ascontiguousarray(mask).view(np.uint8), (w, h), interpolation=cv2.INTER_NEAREST)
        shrunk.append(replace(segment, source=small > 0))
    return cv2.resize(image, (w, h), interpolation=cv2.INTER_AREA), shrunk


def _hatch(canvas: np.ndarray, where: np.ndarray) -> None:
    """Draw diagonal lines, half white and half black to show on any image."""
    h, w = canvas.shape[:2]
    step = max(3, min(h, w) // 160)
    lines = (np.arange(h)[:, None] + np.arange(w)) // step % 6
    for phase, value in ((0, 255), (1, 0)):
        at = where & (lines == phase)
        canvas[at] = (0.5 * canvas[at] + 0.5 * value).astype(np.uint8)
