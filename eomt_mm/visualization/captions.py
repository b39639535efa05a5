"""Place names inside their segments: as large as fits, largest segments first, never over each other."""

from collections.abc import Sequence
from functools import lru_cache

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

Box = tuple[float, float, float, float]  # left, top, right, bottom in pixels
# Text, colour, area of the segment, its thickest_point in its box, and the box.
Caption = tuple[str, tuple[int, int, int], int, tuple[int, int], tuple[slice, slice]]

MIN_FONT = 12  # pixels
FONT_SHARE = 36  # short side of the picture, in heights of the largest font
OVERHANG = 1.5  # a name may be wider and higher than its segment by this factor
BORDER = 3


@lru_cache
def font_of(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own font, which needs no file of the system."""
    return ImageFont.load_default(size=size)


def write_captions(picture: Image.Image, captions: Sequence[Caption], factor: int) -> None:
    """Write names on dark boxes into a picture that is ``factor`` times as large as the masks; none is empty."""
    pen = ImageDraw.Draw(picture)
    largest = max(MIN_FONT, min(picture.size) // FONT_SHARE)
    taken: list[Box] = []
    for text, colour, _, (row, col), (rows, cols) in sorted(captions, key=lambda caption: -caption[2]):
        limits = OVERHANG * factor * (cols.stop - cols.start), OVERHANG * factor * (rows.stop - rows.start)
        centre = factor * (cols.start + col + 0.5), factor * (rows.start + row + 0.5)
        for size in (largest, *(round(share * largest) for share in (0.75, 0.5) if share * largest >= MIN_FONT)):
            box = _place(pen, text, size, centre, limits, taken)
            if box is not None:
                taken.append(box)
                _write(pen, text, size, colour, box)
                break


def thickest_point(mask: np.ndarray) -> tuple[int, int]:
    """Row and column of about the deepest point inside a mask (H, W) bool that is not empty."""
    stride = -(-max(mask.shape) // 256)  # precise enough for a name
    if not mask[::stride, ::stride].any():
        stride = 1
    depth = cv2.distanceTransform(np.pad(mask[::stride, ::stride], 1).view(np.uint8), cv2.DIST_L2, 3)
    row, col = np.unravel_index(depth.argmax(), depth.shape)
    return stride * (int(row) - 1), stride * (int(col) - 1)


def _place(
    pen: ImageDraw.ImageDraw,
    text: str,
    size: int,
    centre: tuple[float, float],
    limits: tuple[float, float],
    taken: Sequence[Box],
) -> Box | None:
    """A free box around the centre or, within ``limits`` (width, height), above or below it; None if there is none."""
    left, top, right, bottom = pen.textbbox((0, 0), text, font=font_of(size))
    width, height = right - left + 2 * BORDER, bottom - top + 2 * BORDER
    if width > limits[0] or height > limits[1]:
        return None
    picture_width, picture_height = pen.im.size
    x = min(max(0, centre[0] - width / 2), max(0, picture_width - width))
    for shift in (0, -height, height):
        if abs(shift) > limits[1] / 4:
            break
        y = min(max(0, centre[1] - height / 2 + shift), max(0, picture_height - height))
        box = (x, y, x + width, y + height)
        if not any(box[0] < b[2] and b[0] < box[2] and box[1] < b[3] and b[1] < box[3] for b in taken):
            return box
    return None


def _write(pen: ImageDraw.ImageDraw, text: str, size: int, colour: tuple[int, int, int], box: Box) -> None:
    left, top, _, _ = pen.textbbox((0, 0), text, font=font_of(size))
    pen.rounded_rectangle(box, radius=4, fill=(0, 0, 0), outline=colour)
    pen.text((box[0] + BORDER - left, box[1] + BORDER - top), text, fill=(255, 255, 255), font=font_of(size))
