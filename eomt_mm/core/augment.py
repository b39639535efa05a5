"""Published augmentation: resizing, random crops and colour changes, shared by the transforms of all hosts.

The hosts are MMDetection, MMSegmentation and detectron2. All random numbers come from numpy's global generator in a
fixed order, so that the same seed gives the same crop in every host.
"""

import math
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as colour

from eomt_mm.core.geometry import Size

Array = np.ndarray
Targets = TypeVar('Targets')


def fitting_size(size: Size, img_size: Size, inside: bool) -> Size:
    """Compute the size of an image resized to fit inside ``img_size`` or, if not ``inside``, to cover it.

    The aspect ratio is kept; sides are rounded half to even.
    """
    (h, w), ratios = size, (img_size[0] / size[0], img_size[1] / size[1])
    factor = min(ratios) if inside else max(ratios)
    return max(1, round(h * factor)), max(1, round(w * factor))


def resize_image(image: Array, size: Size) -> Array:
    """Resize a uint8 image (h, w, 3) to (*size, 3) with PIL's antialiased bilinear filter.

    cv2 differs by up to 58 levels when shrinking.
    """
    if image.shape[:2] == size:
        return image
    return np.array(Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR))


def draw_crop(source_size: Size, img_size: Size, scale_range: tuple[float, float]) -> tuple[Size, tuple[int, int]]:
    """Draw the scale and the position of a random crop.

    Args:
        source_size: size (h, w) of the image.
        img_size: size (H, W) of the crop.
        scale_range: bounds of a uniform factor u; the image is resized to ``int(h * r), int(w * r)`` with
            r = min(H/h, W/w) * u.

    Returns:
        size after scaling, and (top, left) of the crop in the scaled image, padded to at least ``img_size``.
    """
    (h, w), (crop_h, crop_w) = source_size, img_size
    r = min(crop_h / h, crop_w / w) * np.random.uniform(*scale_range)
    size = max(1, int(h * r)), max(1, int(w * r))
    corner = (
        np.random.randint(0, max(size[0] - crop_h, 0) + 1),
        np.random.randint(0, max(size[1] - crop_w, 0) + 1),
    )
    return size, corner


def draw_crop_with_targets(
    source_size: Size,
    img_size: Size,
    scale_range: tuple[float, float],
    max_tries: int,
    cut: Callable[['NearestCrop'], Targets],
    has_target: Callable[[Targets], bool],
) -> tuple[Size, tuple[int, int], Targets]:
    """Draw crops until one has a target, at most ``max_tries``; the last one is used even if it has none.

    Args:
        source_size, img_size, scale_range: see :func:`draw_crop`.
        max_tries: at least 1.
        cut: crops the targets of the image.
        has_target: whether cropped targets hold any; always true for images without any.

    Returns:
        size after scaling, (top, left) of the crop, and the cropped targets.
    """
    for _ in range(max_tries):
        size, corner = draw_crop(source_size, img_size, scale_range)
        targets = cut(NearestCrop(source_size, size, corner, img_size))
        if has_target(targets):
            break
    return size, corner, targets


def draw_flip(prob: float) -> bool:
    """Draw whether to flip an image, with one random number, as mmcv's RandomFlip does for one direction."""
    return bool(np.random.random_sample() < prob)


def crop_image(image: Array, size: Size, corner: tuple[int, int], crop: Size) -> Array:
    """Resize a uint8 image (h, w, C) to ``size``, pad it black at the bottom and the right, crop it to (*crop, C)."""
    part = crop_of_resized(image, size, corner, crop)
    out = np.zeros((*crop, *image.shape[2:]), image.dtype)
    out[: part.shape[0], : part.shape[1]] = part
    return out


def crop_of_resized(image: Array, size: Size, corner: tuple[int, int], crop: Size) -> Array:
    """Compute ``resize_image(image, size)[top : top + h, left : left + w]`` without the rest of the image.

    PIL rounds the coordinates of the region to float32: about 3 in 1,000 values differ, by one or two levels.
    """
    regions, box, lengths = [], [], []
    for old, new, start, length in zip(image.shape, size, corner, crop, strict=False):
        end = min(start + length, new)
        scale = old / new
        reach = math.ceil(max(scale, 1)) + 1  # at least the filter radius, in source pixels
        first, last = max(0, int(start * scale) - reach), min(old, math.ceil(end * scale) + reach)
        regions.append(slice(first, last))
        box.append((start * scale - first, min(end * scale - first, last - first)))
        lengths.append(end - start)
    part = Image.fromarray(np.ascontiguousarray(image[tuple(regions)]))
    (top, bottom), (left, right) = box
    return np.asarray(part.resize(lengths[::-1], Image.Resampling.BILINEAR, (left, top, right, bottom)))


class NearestCrop:
    """Nearest-neighbour resizing and cropping in one indexing step, equal to cv2.resize (INTER_NEAREST) plus a crop.

    Args:
        source: size of the maps before resizing.
        resized, corner, crop: see :func:`draw_crop`.
    """

    def __init__(self, source: Size, resized: Size, corner: tuple[int, int], crop: Size) -> None:
        self.size = crop
        # pixel i of cv2's resized map is source pixel floor(i / (resized / source))
        self.rows, self.cols = (
            np.minimum((np.arange(start, min(start + length, new)) / (new / old)).astype(np.int64), old - 1)
            for start, length, new, old in zip(corner, crop, resized, source, strict=True)
        )

    def crop(self, maps: Array, fill: int) -> Array:
        """Resize and crop maps (..., *source) to (..., *crop), with ``fill`` outside the image."""
        part = maps.take(self.rows, axis=-2).take(self.cols, axis=-1)
        out = np.full((*maps.shape[:-2], *self.size), fill, maps.dtype)
        out[..., : part.shape[-2], : part.shape[-1]] = part
        return out


def check_jitter(brightness: float, contrast: float, saturation: float, hue: float) -> dict[str, float]:
    """Check the ranges of :func:`draw_colour_changes` and return them by name; raises ValueError."""
    if not (0 <= brightness <= 1 and 0 <= contrast <= 1 and 0 <= saturation <= 1 and 0 <= hue <= 0.5):
        raise ValueError(
            f'brightness={brightness}, contrast={contrast}, saturation={saturation} must be in [0, 1], '
            f'hue={hue} in [0, 0.5]'
        )
    return dict(brightness=brightness, contrast=contrast, saturation=saturation, hue=hue)


def check_crop(scale_range: tuple[float, float], max_tries: int) -> None:
    """Check the arguments of :func:`draw_crop_with_targets`; raises ValueError."""
    if not 0 < scale_range[0] <= scale_range[1]:
        raise ValueError(f'scale_range={tuple(scale_range)}: 0 < low <= high')
    if max_tries < 1:
        raise ValueError(f'max_tries={max_tries}: at least 1')


def check_aspect(size: Size, img_size: Size, max_aspect: float, path: str | None) -> None:
    """Check the ratio of the sides of an image that is resized to cover ``img_size``; raises ValueError."""
    h, w = size
    if max(h, w) > max_aspect * min(h, w):
        raise ValueError(
            f'image {path} has {w} x {h} pixels, more than {max_aspect:g} to 1, and its short side is resized to '
            f'{min(img_size)}: crop it, or raise max_aspect of ResizeToInput'
        )


def draw_colour_changes(brightness: float, contrast: float, saturation: float, hue: float) -> list[tuple[str, float]]:
    """Draw colour changes as (name, factor), in the order to apply them; each is included with probability 0.5.

    Brightness comes first; contrast comes before or after saturation and hue with equal probability.

    Args:
        brightness, contrast, saturation: the factor is uniform in 1 - value to 1 + value.
        hue: the shift is uniform in -value to +value, in turns of the colour circle.
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
    """Apply the changes drawn by :func:`draw_colour_changes` to an RGB image, uint8 (3, h, w)."""
    for name, factor in changes:
        image = getattr(colour, f'adjust_{name}')(image, factor)
    return image
