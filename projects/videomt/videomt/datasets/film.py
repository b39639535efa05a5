"""Short films of moving shapes with their exact segmentation, for generated video data sets.

Every film has four things: one that stays, one that passes in front of it and hides it completely in the middle frame,
one that appears only in the second half, and one that leaves in the first half. They move over two kinds of stuff and a
patch of void. Shapes and colours of the classes are those of :mod:`eomt_mm.synthetic.shapes`.
"""

import colorsys
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from eomt_mm.synthetic.shapes import CLASSES, NUM_THINGS

Array = np.ndarray[Any, Any]
NUM_CORNERS = {'circle': 40, 'square': 4, 'triangle': 3, 'star': 10}
VOID_RADIUS = 0.09  # of the short side
MIN_SIDE = 32


@dataclass(frozen=True)
class Mover:
    """A moving thing: ``start`` and ``end`` (x, y) are its centres in the first and the last frame (pixels)."""

    label: int
    radius: float
    angle: float
    start: tuple[float, float]
    end: tuple[float, float]
    color: Array

    def draw(self, canvas: Array, value: Any, progress: float) -> None:
        """Fill its shape on a canvas (H, W[, 3]); ``progress`` through the film is in [0, 1]."""
        centre = np.asarray(self.start) + progress * (np.asarray(self.end) - np.asarray(self.start))
        count = NUM_CORNERS[CLASSES[self.label].name]
        turn = self.angle + 2 * np.pi * np.arange(count) / count
        reach = np.where((np.arange(count) % 2 == 1) & (count == NUM_CORNERS['star']), 0.48, 1.0)
        corners = centre + self.radius * reach[:, None] * np.stack([np.cos(turn), np.sin(turn)], axis=1)
        cv2.fillPoly(canvas, [np.round(corners).astype(np.int32)], value)


@dataclass
class Film:
    """A generated video.

    Attributes:
        frames: (T, H, W, 3) uint8, RGB.
        ids: (T, H, W) int32, the segment id of each pixel; a segment keeps its id throughout the film; 0 is void.
        labels: index into ``CLASSES`` by segment id; an id may be absent from some or all frames.
    """

    frames: Array
    ids: Array
    labels: dict[int, int]


def draw_film(rng: np.random.Generator, num_frames: int, size: tuple[int, int]) -> Film:
    """Draw a film.

    Args:
        rng: the only source of randomness.
        num_frames: at least 1.
        size: (height, width) in pixels, each 32 or more.

    Raises:
        ValueError: ``num_frames`` or ``size`` is too small.
    """
    if num_frames < 1 or min(size) < MIN_SIDE:
        raise ValueError(f'num_frames={num_frames}, size={size}: at least 1 frame, and {MIN_SIDE} pixels a side')
    height, width = size
    movers = _cast(rng, height, width)
    stuff = sorted(int(label) for label in rng.choice(np.arange(NUM_THINGS, len(CLASSES)), 2, replace=False))
    colors = [_color(rng, label) for label in stuff]
    texture = rng.normal(0, 8, (height, width, 1))
    patch = rng.uniform(0.75, 0.9) * width, rng.uniform(0.75, 0.9) * height
    level = height * rng.uniform(0.4, 0.6)
    frames, maps = [], []
    for frame in range(num_frames):
        progress = frame / max(2 * (num_frames // 2), 1)  # 0.5 in the middle frame, for even counts too
        ids = np.full((height, width), 1, np.int32)
        ids[round(level + 0.1 * height * (progress - 0.5)) :] = 2
        image = np.where((ids == 1)[..., None], colors[0], colors[1]) + texture
        centre = round(patch[0]), round(patch[1])
        for canvas, value in ((image, (12.0, 10.0, 16.0)), (ids, 0)):
            cv2.circle(canvas, centre, round(VOID_RADIUS * min(size)), value, -1)
        for number, mover in enumerate(movers, start=3):
            mover.draw(image, mover.color.tolist(), progress)
            mover.draw(ids, number, progress)
        frames.append(np.clip(np.round(image + rng.normal(0, 3, image.shape)), 0, 255).astype(np.uint8))
        maps.append(ids)
    labels = {1: stuff[0], 2: stuff[1]} | {number: mover.label for number, mover in enumerate(movers, start=3)}
    return Film(np.stack(frames), np.stack(maps), labels)


def _cast(rng: np.random.Generator, height: int, width: int) -> list[Mover]:
    """The four things of a film, from back to front; see the module."""
    short = min(height, width)
    hidden, cover, late, leaving = 0.1 * short, 0.24 * short, 0.15 * short, 0.15 * short
    x, y = width * rng.uniform(0.4, 0.6), height * rng.uniform(0.4, 0.5)
    top, bottom = 0.22 * height, 0.85 * height

    def mover(label: int, radius: float, start: tuple[float, float], end: tuple[float, float]) -> Mover:
        return Mover(label, radius, rng.uniform(0, 2 * np.pi), start, end, _color(rng, label))

    return [
        mover(rng.integers(NUM_THINGS).item(), leaving, (0.15 * width, bottom), (-0.5 * width, bottom)),
        mover(rng.integers(NUM_THINGS).item(), late, (1.5 * width, top), (0.85 * width, top)),
        mover(rng.integers(NUM_THINGS).item(), hidden, (x, y - 0.1 * height), (x, y + 0.1 * height)),
        # Only a circle or a square covers the thing behind it completely.
        mover(rng.integers(2).item(), cover, (x - 0.5 * width, y), (x + 0.5 * width, y)),
    ]


def _color(rng: np.random.Generator, label: int) -> Array:
    """RGB (3,) in [0, 255] near the tint of a class."""
    hue, saturation, value = CLASSES[label].tint
    rgb = colorsys.hsv_to_rgb((hue + rng.uniform(-7, 7)) % 360 / 360, saturation, value * rng.uniform(0.9, 1.1))
    return np.clip(255 * np.array(rgb), 0, 255)
