"""Padding and windows: from a resized image to the model's input, and from its output back to the image."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

Size = tuple[int, int]  # (height, width) in pixels


def as_size(img_size: int | Sequence[int]) -> Size:
    """Convert a side or (height, width) in pixels to (height, width).

    Raises:
        ValueError: it is neither, or below 1 pixel.
    """
    sides = tuple(img_size) if isinstance(img_size, Sequence) else (img_size, img_size)
    if len(sides) != 2 or not all(isinstance(side, int) and side >= 1 for side in sides):
        raise ValueError(f'img_size={img_size!r}: must be an int or (height, width), at least 1 pixel')
    return sides[0], sides[1]


def resize(maps: Tensor, size: Size) -> Tensor:
    """Resize maps (..., h, w) to (..., *size), with at least one leading dimension.

    Bilinear with half-pixel centres, no antialiasing.
    """
    if tuple(maps.shape[-2:]) == tuple(size):
        return maps
    if maps.numel() == 0:  # no query was kept; F.interpolate rejects empty tensors
        return maps.new_zeros(*maps.shape[:-2], *size)
    flat = maps.reshape(1, -1, *maps.shape[-2:])
    return F.interpolate(flat, size, mode='bilinear', align_corners=False).reshape(*maps.shape[:-2], *size)


def _prefix_to_resize(wanted: int, length: int, resized_length: int) -> tuple[int, int]:
    """Compute how much of a side must be resized if only the first pixels of the resized side are needed.

    Args:
        wanted: number of needed pixels, at most ``resized_length``.
        length: length of the whole side.
        resized_length: length that the whole side would be resized to.

    Returns:
        number of leading pixels to resize, and the length to resize them to. The two numbers have exactly the ratio of
        ``length`` to ``resized_length``, so the needed pixels equal those of the resized whole side.
    """
    divisor = math.gcd(length, resized_length)
    period, resized_period = length // divisor, resized_length // divisor
    # Bilinear weights reach at most half a pixel beyond the last needed position; add a whole pixel to be safe.
    periods = min(math.ceil((wanted / resized_period * period + 1) / period), divisor)
    return periods * period, periods * resized_period


def pad_bottom_right(image: Tensor, size: Size, value: int | float = 0) -> Tensor:
    """Pad (..., h, w) at the bottom and the right to ``size``.

    Raises:
        ValueError: the image is larger than ``size``.
    """
    h, w = image.shape[-2:]
    if h > size[0] or w > size[1]:
        raise ValueError(
            f'image of {h} x {w} pixels does not fit the input of {size[0]} x {size[1]}: let the pipeline resize it '
            f'(Resize with scale={tuple(size)} and keep_ratio=True), or raise img_size'
        )
    return F.pad(image, (0, size[1] - w, 0, size[0] - h), value=value)


@dataclass(frozen=True)
class Padding:
    """Geometry of an image resized to fit the input and padded at the bottom and the right (instance and panoptic).

    Attributes:
        ori_size: size of the image file.
        resized_size: size after the pipeline's resizing.
        input_size: size of the model's input.
    """

    ori_size: Size
    resized_size: Size
    input_size: Size

    @property
    def num_inputs(self) -> int:
        """Number of entries of the input batch that the image takes."""
        return 1

    def apply(self, image: Tensor) -> Tensor:
        """Pad an image (C, *resized_size), not yet normalised, with black (zeros) to (1, C, *input_size)."""
        return pad_bottom_right(image, self.input_size)[None]

    def invert(self, maps: Tensor) -> Tensor:
        """Map predictions (N, h, w) for the input, at any resolution, to (N, *ori_size): resize, crop, resize."""
        (h, w), (rows, columns) = self.resized_size, maps.shape[-2:]
        rows, padded_h = _prefix_to_resize(h, rows, self.input_size[0])
        columns, padded_w = _prefix_to_resize(w, columns, self.input_size[1])
        image = resize(maps[..., :rows, :columns], (padded_h, padded_w))[..., :h, :w]
        return resize(image, self.ori_size)


@dataclass(frozen=True)
class Windows:
    """Geometry of an image cut into overlapping windows of the input's size (semantic).

    In the published setting the short side equals the window, so that there are several windows along the long side
    only. Here the same rule applies to both sides.

    Attributes:
        ori_size: size of the image file.
        resized_size: size after the pipeline's resizing.
        input_size: size of a window.
    """

    ori_size: Size
    resized_size: Size
    input_size: Size

    @cached_property
    def corners(self) -> list[tuple[int, int]]:
        """(top, left) of each window, row by row."""
        tops, lefts = (window_starts(n, size) for n, size in zip(self.resized_size, self.input_size, strict=True))
        return [(top, left) for top in tops for left in lefts]

    @property
    def num_inputs(self) -> int:
        """Number of entries of the input batch that the image takes."""
        return len(self.corners)

    @property
    def _padded_size(self) -> Size:
        (h, w), (window_h, window_w) = self.resized_size, self.input_size
        return max(h, window_h), max(w, window_w)

    def apply(self, image: Tensor) -> Tensor:
        """Cut an image (C, *resized_size) to (num_inputs, C, *input_size), padded black where smaller than a window."""
        h, w = self.input_size
        image = pad_bottom_right(image, self._padded_size)
        return torch.stack([image[:, top : top + h, left : left + w] for top, left in self.corners])

    def invert(self, maps: Tensor) -> Tensor:
        """Merge maps (num_inputs, K, *input_size) to (K, *ori_size): sum, divide by coverage, resize."""
        if len(maps) != self.num_inputs:
            raise ValueError(f'got {len(maps)} maps for {self.num_inputs} windows: give one map per window')
        sums = self.empty_sums(maps)
        self.add(sums, maps)
        return self.average(sums)

    def empty_sums(self, maps: Tensor) -> Tensor:
        """Create zero sums (K, h, w) for maps (n, K, *input_size), see :meth:`add`; (h, w) is the padded image size."""
        return maps.new_zeros(maps.shape[1], *self._padded_size)

    def add(self, sums: Tensor, maps: Tensor, first: int = 0) -> None:
        """Add maps (n, K, *input_size) of windows ``first`` to ``first + n - 1`` to sums (K, h, w)."""
        h, w = self.input_size
        for window, (top, left) in zip(maps, self.corners[first:], strict=False):
            sums[:, top : top + h, left : left + w] += window

    def average(self, sums: Tensor) -> Tensor:
        """Divide sums (K, h, w) by the coverage, in place, and resize them to (K, *ori_size)."""
        h, w = self.input_size
        coverage = sums.new_zeros(self._padded_size)
        for top, left in self.corners:
            coverage[top : top + h, left : left + w] += 1
        h, w = self.resized_size
        return resize(sums.div_(coverage)[:, :h, :w], self.ori_size)


def window_starts(length: int, window: int) -> list[int]:
    """Compute the starts of the windows along one side of ``length`` pixels, as in the published evaluation.

    n = ceil(length / window) windows share the overlap o = n * window - length evenly: start j is
    ``int(j * (window - o / (n - 1)))``. By floating-point rounding, the last published window can end one pixel before
    the border (observed from an aspect ratio of 7:1). Here it always ends at the border: every pixel is covered.
    """
    n = math.ceil(length / window)
    if n <= 1:
        return [0]
    overlap = n * window - length
    return [int(j * (window - overlap / (n - 1))) for j in range(n - 1)] + [length - window]
