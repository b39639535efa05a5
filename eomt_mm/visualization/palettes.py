"""Colours of classes and of their instances, for readers of every colour vision."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import cv2
import numpy as np

Colour = tuple[int, int, int]  # RGB, in [0, 255]

PALETTES = ('dataset', 'distinct')
# Okabe and Ito, "Color Universal Design", 2008 (jfly.uni-koeln.de/color), without black.
OKABE_ITO: tuple[Colour, ...] = (
    (213, 94, 0), (0, 114, 178), (240, 228, 66), (204, 121, 167), (86, 180, 233), (0, 158, 115), (230, 159, 0),
)  # fmt: skip
# Linear RGB as seen with protanopia, deuteranopia and tritanopia (Machado, Oliveira and Fernandes, "A
# Physiologically-based Model for Simulation of Color Vision Deficiency", 2009, severity 1).
DICHROMATS = np.array(
    [
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
    ],
    np.float32,
)
LIGHTNESS = (35, 93)  # of CIE Lab: darker and lighter colours are hard to see over a photograph
LEVELS = 16  # per channel, of the colours to choose from
# Share of white (above 0) or black (below) that successive instances of a class are mixed with.
SHADES = (0.0, 0.45, -0.35, 0.7, -0.55)


def class_colours(meta: Mapping[str, Any], palette: str = 'dataset') -> list[Colour]:
    """A colour per class.

    Args:
        meta: of a data set: ``classes`` and, where it has one, ``palette``.
        palette: 'dataset', the data set's own where it has one; or 'distinct', :func:`distinct_palette`.

    Raises:
        ValueError: for another palette, or the data set's has fewer colours than classes.
    """
    if palette not in PALETTES:
        raise ValueError(f"palette='{palette}': one of {PALETTES}; 'distinct' is safe for colour-blind readers")
    if palette == 'dataset' and meta.get('palette'):
        colours = [(int(r), int(g), int(b)) for r, g, b in meta['palette']]
        if len(colours) < len(meta['classes']):
            raise ValueError(
                f'the palette has {len(colours)} colours for {len(meta["classes"])} classes: add colours or leave it '
                'out (palette of metainfo in the config, of meta.dataset_meta in the checkpoint)'
            )
        return colours
    return list(distinct_palette(len(meta['classes'])))


def with_palette(meta: Mapping[str, Any], palette: str = 'dataset') -> dict[str, Any]:
    """``meta`` with the colours of :func:`class_colours` as its ``palette``."""
    return {**meta, 'palette': class_colours(meta, palette)}


@lru_cache
def distinct_palette(count: int) -> tuple[Colour, ...]:
    """Colours that differ for readers with normal and with dichromatic vision: Okabe and Ito's seven, then more.

    Each further colour is the one with the largest distance to all before it, in CIE Lab, in the kind of vision that
    separates them least. Seven classes are easy to distinguish. Of 150 colours some are similar: read the names, too.
    """
    chosen = list(OKABE_ITO)
    levels = np.linspace(0, 255, LEVELS).round().astype(np.uint8)
    offered = np.stack(np.meshgrid(levels, levels, levels, indexing='ij'), axis=-1).reshape(-1, 3)
    seen = as_seen(offered)
    light = (seen[0, :, 0] >= LIGHTNESS[0]) & (seen[0, :, 0] <= LIGHTNESS[1])
    offered, seen = offered[light], seen[:, light]
    distance = np.full(len(offered), np.inf)
    for colour in as_seen(np.array(chosen, np.uint8)).swapaxes(0, 1):
        distance = np.minimum(distance, _least_distance(seen, colour))
    while len(chosen) < count:
        k = int(distance.argmax())
        r, g, b = offered[k].tolist()
        chosen.append((r, g, b))
        distance = np.minimum(distance, _least_distance(seen, seen[:, k]))
    return tuple(chosen[:count])


def as_seen(colours: np.ndarray) -> np.ndarray:
    """CIE Lab (4, N, 3) of colours (N, 3), uint8 RGB, in normal and in the three kinds of dichromatic vision."""
    rgb = colours.astype(np.float32) / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)  # sRGB, IEC 61966-2-1
    views = np.concatenate([linear[None], linear @ DICHROMATS.swapaxes(1, 2)]).clip(0, 1).astype(np.float32)
    lab: np.ndarray = cv2.cvtColor(views.reshape(1, -1, 3), cv2.COLOR_LRGB2Lab).reshape(views.shape)
    return lab


def _least_distance(seen: np.ndarray, colour: np.ndarray) -> np.ndarray:
    """Distances (N,) of colours (4, N, 3) from one (4, 3), in the vision where they are least."""
    least: np.ndarray = np.linalg.norm(seen - colour[:, None], axis=-1).min(axis=0)
    return least


def shade(colour: Colour, number: int) -> Colour:
    """The colour of instance ``number``, from 0: lighter and darker ones in turn, the same again after five."""
    share = SHADES[number % len(SHADES)]
    target = 255 if share > 0 else 0
    r, g, b = (round((1 - abs(share)) * value + abs(share) * target) for value in colour)
    return r, g, b
