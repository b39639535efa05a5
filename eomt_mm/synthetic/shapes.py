"""Random scenes of simple shapes over textured backgrounds, with their exact segmentation.

Four things (circle, square, triangle, star) lie over four kinds of stuff (sky, grass, brick, tiles). Every class has a
colour family of its own beside its shape or texture, and no class has one constant colour, so that a small ViT learns
the classes in minutes, but not from a single colour. Void is nearly black and belongs to no class.
"""

import colorsys
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import cv2
import numpy as np

Array = np.ndarray[Any, Any]


class ShapeClass(NamedTuple):
    """One class: ``tint`` is its mean hue in degrees, saturation and value in [0, 1]; ``color`` its RGB in pictures."""

    name: str
    is_thing: bool
    tint: tuple[float, float, float]
    color: tuple[int, int, int]


# Palette: Okabe and Ito, "Color Universal Design", 2008 (jfly.uni-koeln.de/color): safe for colour-blind readers. Grey
# stands in for its black, which is left to void. Colours follow the tints, so that pictures and maps read alike.
CLASSES = (
    ShapeClass('circle', True, (6, 0.80, 0.88), (213, 94, 0)),
    ShapeClass('square', True, (245, 0.70, 0.75), (0, 114, 178)),
    ShapeClass('triangle', True, (52, 0.85, 0.96), (240, 228, 66)),
    ShapeClass('star', True, (322, 0.55, 0.90), (204, 121, 167)),
    ShapeClass('sky', False, (205, 0.55, 0.90), (86, 180, 233)),
    ShapeClass('grass', False, (120, 0.60, 0.55), (0, 158, 115)),
    ShapeClass('brick', False, (24, 0.60, 0.68), (230, 159, 0)),
    ShapeClass('tiles', False, (200, 0.05, 0.75), (153, 153, 153)),
)
NUM_THINGS = sum(entry.is_thing for entry in CLASSES)
_VOID_TINT = (260.0, 0.15, 0.16)

# Class names and palette as mmdet's panoptic data sets state them, things first.
SHAPES_METAINFO: dict[str, Any] = dict(
    classes=tuple(entry.name for entry in CLASSES),
    thing_classes=tuple(entry.name for entry in CLASSES if entry.is_thing),
    stuff_classes=tuple(entry.name for entry in CLASSES if not entry.is_thing),
    palette=[entry.color for entry in CLASSES],
)

_NUM_CORNERS = {'circle': 48, 'square': 4, 'triangle': 3, 'star': 10}
_STAR_WAIST = 0.48  # radius of a star's inner corners, in radii of the outer ones
_DIAMETERS = (0.18, 0.40)  # of the short side
_CROWD_DIAMETERS = (0.06, 0.09)
_MIN_RADIUS = 6.0  # pixels; keeps the four shapes apart in the smallest images
_MIN_VISIBLE = 0.4  # a thing with less of its area in sight is left out
MIN_PIXELS = 16  # smaller segments become void


class Segment(NamedTuple):
    """``id`` is the value in ``Scene.ids``; ``label`` indexes ``CLASSES``; only things can be crowds."""

    id: int
    label: int
    is_thing: bool
    is_crowd: bool


@dataclass
class Scene:
    """A picture and its segmentation.

    Attributes:
        image: (H, W, 3) uint8, RGB.
        ids: (H, W) int32; the id of the segment of each pixel, 0 is void.
        segments: one entry for each id above 0 in ``ids``, ascending; at most one segment per stuff class.
    """

    image: Array
    ids: Array
    segments: list[Segment] = field(default_factory=list)


def draw_scene(
    rng: np.random.Generator,
    height: int,
    width: int,
    first: int = 0,
    crowd: bool = False,
    border: bool = False,
    patch: bool = False,
) -> Scene:
    """Draw two kinds of stuff on either side of a curve and one to four things over them.

    Things overlap: later ones hide earlier ones, none is hidden for more than 60 % of its area.

    Args:
        rng: The only source of randomness.
        height: Pixels, 32 or more.
        width: Pixels, 32 or more.
        first: Picks (modulo 4) one thing class and one stuff class that certainly occur: counting it up keeps the
            classes balanced.
        crowd: Whether to add a cluster of tiny shapes of one class as one crowd segment.
        border: Whether a line of void about two pixels wide parts neighbouring segments.
        patch: Whether to add a dark patch of void on the background.

    Returns:
        The scene. Ids may have gaps.
    """
    image, ids, segments = _draw_background(rng, height, width, first)
    if patch:
        centre = rng.uniform(0.2, 0.8, 2) * (width, height)
        alpha = _fill(height, width, centre + _corners('circle', 0.14 * min(height, width), 0) * (1.5, 1))
        image = _blend(image, _paint_void(rng, height, width), alpha)
        ids[alpha > 0.5] = 0
    for label, is_crowd, alpha in place_things(rng, height, width, first, crowd):
        segments.append(Segment(len(segments) + 1, label, True, is_crowd))
        image = _blend(image, _paint_thing(rng, label, alpha), alpha)
        ids[alpha > 0.5] = segments[-1].id
    if border:
        ids = _part(ids)
    return _finish(rng, image, ids, segments)


def draw_blank(rng: np.random.Generator, height: int, width: int) -> Scene:
    """Draw a scene that shows none of the classes: all void, no segments."""
    return _finish(rng, _paint_void(rng, height, width), np.zeros((height, width), np.int32), [])


def _finish(rng: np.random.Generator, image: Array, ids: Array, segments: list[Segment]) -> Scene:
    """Add sensor noise and turn segments of too few pixels into void."""
    kept = []
    for segment in segments:
        mask = ids == segment.id
        if np.count_nonzero(mask) >= MIN_PIXELS:
            kept.append(segment)
        else:
            ids[mask] = 0
    noisy = image + rng.normal(0, 3, image.shape)
    return Scene(np.clip(np.round(noisy), 0, 255).astype(np.uint8), ids, kept)


def _part(ids: Array) -> Array:
    """Set every pixel to void that has a pixel of another id to its left, right, top or bottom."""
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    # Dilation takes no int32; scenes have far fewer ids than int16 holds.
    small = ids.astype(np.int16)
    same = np.asarray(cv2.dilate(small, cross)) == np.asarray(cv2.erode(small, cross))
    return np.where(same, ids, 0).astype(np.int32)


def _draw_background(
    rng: np.random.Generator, height: int, width: int, first: int
) -> tuple[Array, Array, list[Segment]]:
    """Return the image (H, W, 3) float, the ids (H, W) and the segments of two kinds of stuff."""
    stuff = list(range(NUM_THINGS, len(CLASSES)))
    one = stuff.pop(first % len(stuff))
    # The sky has the lowest label of all stuff, so sorting puts it above whatever it meets.
    above, below = sorted((one, int(rng.choice(stuff))))
    y, x = np.mgrid[:height, :width]
    bend = 0.06 * height * np.sin(2 * np.pi * (x / width * rng.uniform(0.5, 1.5) + rng.uniform()))
    line = height * rng.uniform(0.35, 0.65) + (x - width / 2) * math.tan(rng.uniform(-0.5, 0.5)) + bend
    upper, lower = (_paint_stuff(rng, label, height, width) for label in (above, below))
    image = _blend(upper, lower, np.clip(y - line + 0.5, 0, 1))
    ids = np.where(y > line, 2, 1).astype(np.int32)
    return image, ids, [Segment(1, above, False, False), Segment(2, below, False, False)]


def place_things(
    rng: np.random.Generator, height: int, width: int, first: int, crowd: bool
) -> list[tuple[int, bool, Array]]:
    """Return (label, is_crowd, alpha (H, W) in [0, 1]) of each thing, from back to front."""
    candidates: list[tuple[int, bool, Array]] = []
    if crowd:
        label = int(rng.integers(NUM_THINGS))
        candidates.append((label, True, _crowd_alpha(rng, CLASSES[label].name, height, width)))
    for number in range(rng.integers(1, 5)):
        label = int(rng.integers(NUM_THINGS)) if number else first % NUM_THINGS
        radius = max(_MIN_RADIUS, rng.uniform(*_DIAMETERS) / 2 * min(height, width))
        centre = rng.uniform((0.5 * radius,) * 2, (width - 0.5 * radius, height - 0.5 * radius))
        corners = centre + _corners(CLASSES[label].name, radius, rng.uniform(0, 2 * np.pi))
        candidates.append((label, False, _fill(height, width, corners)))
    # From the front to the back: what is left out then hides nothing, and the first one always stays.
    hidden = np.zeros((height, width), bool)
    placed = []
    for label, is_crowd, alpha in candidates:
        mask = alpha > 0.5
        if np.count_nonzero(mask & ~hidden) >= max(MIN_PIXELS, _MIN_VISIBLE * np.count_nonzero(mask)):
            placed.append((label, is_crowd, alpha))
            hidden |= mask
    return placed[::-1]


def _crowd_alpha(rng: np.random.Generator, name: str, height: int, width: int) -> Array:
    """Draw a cluster of tiny shapes, scattered about one place: alpha (H, W) in [0, 1]."""
    short = min(height, width)
    middle = rng.uniform(0.25, 0.75, 2) * (width, height)
    alpha = np.zeros((height, width))
    for offset in rng.normal(0, 0.11 * short, (int(rng.integers(14, 22)), 2)):
        radius = max(2.0, rng.uniform(*_CROWD_DIAMETERS) / 2 * short)
        corners = _corners(name, radius, rng.uniform(0, 2 * np.pi))
        alpha = np.maximum(alpha, _fill(height, width, middle + offset + corners))
    return alpha


def _corners(name: str, radius: float, angle: float) -> Array:
    """Return the corners (N, 2) of a shape about the origin, (x, y) in pixels; ``angle`` in radians."""
    count = _NUM_CORNERS[name]
    turn = angle + 2 * np.pi * np.arange(count) / count
    reach = np.where(np.arange(count) % 2, _STAR_WAIST, 1.0) if name == 'star' else np.ones(count)
    corners: Array = radius * reach[:, None] * np.stack([np.cos(turn), np.sin(turn)], axis=1)
    return corners


def _fill(height: int, width: int, corners: Array) -> Array:
    """Fill a polygon (N, 2) with smooth edges: alpha (H, W) in [0, 1]."""
    canvas = np.zeros((height, width), np.uint8)
    bits = 4  # fractional bits of the fixed-point coordinates that OpenCV takes
    cv2.fillPoly(canvas, [np.round(corners * 2**bits).astype(np.int32)], (255,), cv2.LINE_AA, bits)
    return canvas / 255


def _blend(back: Array, front: Array, alpha: Array) -> Array:
    blended: Array = back + alpha[..., None] * (front - back)
    return blended


def _noise(rng: np.random.Generator, height: int, width: int, cell: float) -> Array:
    """Smooth noise (H, W) in [-1, 1]; ``cell`` is the grain in pixels."""
    grid = rng.uniform(-1, 1, (math.ceil(height / cell) + 1, math.ceil(width / cell) + 1)).astype(np.float32)
    return np.clip(np.asarray(cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)), -1, 1)


def _paint(rng: np.random.Generator, tint: tuple[float, float, float], shade: Array, pale: Array) -> Array:
    """Return (H, W, 3) in [0, 255]: a colour near ``tint`` times ``shade``, mixed with white by ``pale`` (0 to 1)."""
    hue, saturation, value = tint
    rgb = colorsys.hsv_to_rgb(
        (hue + rng.uniform(-7, 7)) % 360 / 360,
        min(1, saturation * rng.uniform(0.85, 1.15)),
        min(1, value * rng.uniform(0.9, 1.1)),
    )
    return _blend(np.clip(shade, 0, 1.3)[..., None] * (255 * np.array(rgb)), np.full(3, 255.0), pale)


def _paint_void(rng: np.random.Generator, height: int, width: int) -> Array:
    shade = 1 + 0.3 * _noise(rng, height, width, 6)
    return _paint(rng, _VOID_TINT, shade, np.zeros((height, width)))


def _paint_thing(rng: np.random.Generator, label: int, alpha: Array) -> Array:
    """Paint one thing: light falls on it from a random side, its rim is darker. Returns (H, W, 3)."""
    height, width = alpha.shape
    mask = alpha > 0.5
    y, x = np.nonzero(mask)
    angle = rng.uniform(0, 2 * np.pi)
    slope = (np.arange(width) - x.mean()) * math.cos(angle) + (np.arange(height) - y.mean())[:, None] * math.sin(angle)
    depth = np.asarray(cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, 5))
    rim = np.clip(depth / (0.25 * depth.max()), 0.6, 1)
    shade = rim * (1 + 0.2 * slope / np.abs(slope[mask]).max() + 0.06 * _noise(rng, height, width, 4))
    return _paint(rng, CLASSES[label].tint, shade, np.zeros_like(shade))


def _paint_stuff(rng: np.random.Generator, label: int, height: int, width: int) -> Array:
    shade, pale = _TEXTURES[CLASSES[label].name](rng, height, width)
    return _paint(rng, CLASSES[label].tint, shade, pale)


def _sky(rng: np.random.Generator, height: int, width: int) -> tuple[Array, Array]:
    """A smooth gradient, paler towards the ground, with a few clouds: shade and paleness (H, W)."""
    haze = np.linspace(0, 0.5, height)[:, None]
    clouds = np.clip(_noise(rng, height, width, min(height, width) / 4), 0, 1)
    return np.ones((height, width)), np.clip(haze + 0.4 * clouds, 0, 1)


def _grass(rng: np.random.Generator, height: int, width: int) -> tuple[Array, Array]:
    """Fine upright noise over slow changes of brightness."""
    blades = np.asarray(cv2.blur(rng.uniform(-1, 1, (height, width)), (1, 5)))
    return 1 + 0.7 * blades + 0.15 * _noise(rng, height, width, 16), np.zeros((height, width))


def _brick(rng: np.random.Generator, height: int, width: int) -> tuple[Array, Array]:
    """Courses of bricks, each of its own brightness, with pale joints."""
    course = max(5.0, min(height, width) / 11 * rng.uniform(0.85, 1.15))
    length, joint = 2.2 * course, max(1.0, 0.14 * course)
    y, x = np.mgrid[:height, :width] + rng.uniform(0, length, (2, 1, 1))
    row = (y // course).astype(int)
    x = x + row % 2 * length / 2
    column = (x // length).astype(int)
    bricks = rng.uniform(0.78, 1.15, (row.max() + 1, column.max() + 1))
    joints = (y % course < joint) | (x % length < joint)
    return bricks[row, column], 0.5 * joints


def _tiles(rng: np.random.Generator, height: int, width: int) -> tuple[Array, Array]:
    """A checkerboard of light and dark grey, a little turned."""
    side = max(4.0, min(height, width) / 9 * rng.uniform(0.85, 1.15))
    angle = rng.uniform(-0.4, 0.4)
    y, x = np.mgrid[:height, :width] + rng.uniform(0, side, (2, 1, 1))
    along, across = x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)
    dark = (along // side + across // side) % 2
    return 1.1 - 0.5 * dark + 0.06 * _noise(rng, height, width, 5), np.zeros((height, width))


_TEXTURES: dict[str, Callable[[np.random.Generator, int, int], tuple[Array, Array]]] = dict(
    sky=_sky, grass=_grass, brick=_brick, tiles=_tiles
)
