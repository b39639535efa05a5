"""Sizes, crops and colour changes of images as published: random draws and arithmetic, for the transforms of any host.

Draws come from numpy's global generator, always in the same order: from the same seed every host cuts the same crop.
"""

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as colour

from eomt_mm.core.geometry import Size

Array = np.ndarray


def fitting_size(size: Size, img_size: Size, inside: bool) -> Size:
    """Size of an image resized to fit inside ``img_size``, or to cover it; sides are rounded half to even."""
    (h, w), ratios = size, (img_size[0] / size[0], img_size[1] / size[1])
    factor = min(ratios) if inside else max(ratios)
    return max(1, round(h * factor)), max(1, round(w * factor))


def resize_image(image: Array, size: Size) -> Array:
    """uint8 (h, w, 3) to (*size, 3), antialiased bilinear (PIL; cv2 differs by up to 58 levels when shrinking)."""
    if image.shape[:2] == size:
        return image
    return np.array(Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR))


def draw_crop(source_size: Size, img_size: Size, scale_range: tuple[float, float]) -> tuple[Size, tuple[int, int]]:
    """Random scale and place of a crop.

    Args:
        source_size: of the image.
        img_size: of the crop, (H, W).
        scale_range: r = min(H/h, W/w) * U(scale_range); the image is resized to ``int(h * r), int(w * r)``.

    Returns:
        size after scaling, and top and left of the crop in the image padded to at least ``img_size``.
    """
    (h, w), (crop_h, crop_w) = source_size, img_size
    r = min(crop_h / h, crop_w / w) * np.random.uniform(*scale_range)
    size = max(1, int(h * r)), max(1, int(w * r))
    corner = (
        np.random.randint(0, max(size[0] - crop_h, 0) + 1),
        np.random.randint(0, max(size[1] - crop_w, 0) + 1),
    )
    return size, corner


def crop_image(image: Array, size: Size, corner: tuple[int, int], crop: Size) -> Array:
    """uint8 (h, w, C) resized to ``size``, padded black at the bottom and the right, cut to (*crop, C)."""
    part = crop_of_resized(image, size, corner, crop)
    out = np.zeros((*crop, *image.shape[2:]), image.dtype)
    out[: part.shape[0], : part.shape[1]] = part
    return out


def crop_of_resized(image: Array, size: Size, corner: tuple[int, int], crop: Size) -> Array:
    """``resize_image(image, size)[top : top + h, left : left + w]`` without computing the rest.

    PIL rounds the part's coordinates to float32: of 1,000 values about 3 differ, by a level or two.
    """
    regions, box, lengths = [], [], []
    for old, new, start, length in zip(image.shape, size, corner, crop, strict=False):
        end = min(start + length, new)
        scale = old / new
        reach = math.ceil(max(scale, 1)) + 1  # of the filter, in source pixels
        first, last = max(0, int(start * scale) - reach), min(old, math.ceil(end * scale) + reach)
        regions.append(slice(first, last))
        box.append((start * scale - first, min(end * scale - first, last - first)))
        lengths.append(end - start)
    part = Image.fromarray(np.ascontiguousarray(image[tuple(regions)]))
    (top, bottom), (left, right) = box
    return np.asarray(part.resize(lengths[::-1], Image.Resampling.BILINEAR, (left, top, right, bottom)))


class NearestCrop:
    """Nearest-neighbour resizing and cropping in one look-up, equal to cv2's resize (INTER_NEAREST) and a crop.

    Args:
        source: size of the maps.
        resized, corner, crop: see :func:`draw_crop`.
    """

    def __init__(self, source: Size, resized: Size, corner: tuple[int, int], crop: Size) -> None:
        self.size = crop
        # cv2 takes source pixel floor(i / (resized / source)) for pixel i of the resized map
        self.rows, self.cols = (
            np.minimum((np.arange(start, min(start + length, new)) / (new / old)).astype(np.int64), old - 1)
            for start, length, new, old in zip(corner, crop, resized, source, strict=True)
        )

    def crop(self, maps: Array, fill: int) -> Array:
        """(..., *source) to (..., *crop), ``fill`` outside the image."""
        part = maps.take(self.rows, axis=-2).take(self.cols, axis=-1)
        out = np.full((*maps.shape[:-2], *self.size), fill, maps.dtype)
        out[..., : part.shape[-2], : part.shape[-1]] = part
        return out


def draw_colour_changes(brightness: float, contrast: float, saturation: float, hue: float) -> list[tuple[str, float]]:
    """Names and factors of the changes to an image, in their order; each has probability 0.5.

    Brightness comes first; contrast comes before or after saturation and hue with equal probability.

    Args:
        brightness, contrast, saturation: factors are drawn from 1 -+ this.
        hue: the shift is drawn from -+ this, in turns of the colour circle.
    """
    ranges = dict(brightness=brightness, contrast=contrast, saturation=saturation, hue=hue)
    order = ['brightness', 'saturation', 'hue']
    order.insert(1 if np.random.rand() < 0.5 else 3, 'contrast')
    chosen = [name for name in order if np.random.rand() < 0.5]
    centres = [0 if name == 'hue' else 1 for name in chosen]
    return [
        (name, np.random.uniform(centre - ranges[name], centre + ranges[name]))
        for name, centre in zip(chosen, centres, strict=True)
    ]


def change_colours(image: Tensor, changes: Sequence[tuple[str, float]]) -> Tensor:
    """Applies what :func:`draw_colour_changes` drew to an image uint8 (3, h, w), RGB."""
    for name, factor in changes:
        image = getattr(colour, f'adjust_{name}')(image, factor)
    return image
