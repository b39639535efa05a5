"""Pictures of segmentations: coloured masks with outlines and names, and panels side by side."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

MIN_SIDE = 320  # smaller pictures are enlarged, so that names stay legible
MARGIN = 8


@dataclass(frozen=True)
class DrawnSegment:
    """A mask (H, W) bool with its class name, RGB colour and, for predictions, score in [0, 1]."""

    mask: np.ndarray
    name: str
    colour: tuple[int, int, int]
    score: float | None = None

    @property
    def caption(self) -> str:
        return self.name if self.score is None else f'{self.name} {self.score:.2f}'


def draw_segments(image: np.ndarray, segments: Sequence[DrawnSegment], opacity: float = 0.55) -> Image.Image:
    """Draws segments over an image.

    Args:
        image: (H, W, 3) uint8 RGB.
        segments: drawn in this order; a name is left out where the segment is too small for it.
        opacity: of the colours, in [0, 1].

    Returns:
        picture, enlarged by a whole factor where its short side is below 320 pixels.
    """
    h, w = image.shape[:2]
    factor = max(1, -(-MIN_SIDE // min(h, w)))
    picture = image.astype(np.float32)
    for segment in segments:
        picture[segment.mask] = (1 - opacity) * picture[segment.mask] + opacity * np.array(segment.colour, np.float32)
    canvas = enlarge(picture.round().astype(np.uint8), factor)
    for segment in segments:
        canvas[outline(enlarge(segment.mask, factor))] = segment.colour
    drawn = Image.fromarray(canvas)
    pen = ImageDraw.Draw(drawn)
    font = ImageFont.load_default(size=max(12, min(drawn.size) // 28))
    taken: list[tuple[float, float, float, float]] = []
    for segment in sorted(segments, key=lambda s: -int(s.mask.sum())):
        _write_name(pen, font, segment, factor, taken)
    return drawn


def enlarge(array: np.ndarray, factor: int) -> np.ndarray:
    """Repeats pixels: (H, W, ...) to (factor * H, factor * W, ...)."""
    return array.repeat(factor, axis=0).repeat(factor, axis=1)


def outline(mask: np.ndarray) -> np.ndarray:
    """Pixels of a mask (H, W) with a 4-neighbour outside it."""
    padded = np.pad(mask, 1)
    inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask & ~inner


def _write_name(
    pen: ImageDraw.ImageDraw,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    segment: DrawnSegment,
    factor: int,
    taken: list[tuple[float, float, float, float]],
) -> None:
    """Writes the caption on the segment's pixel closest to its centre, unless a larger segment's stands there."""
    rows, cols = segment.mask.nonzero()
    if len(rows) == 0:
        return
    nearest = ((rows - rows.mean()) ** 2 + (cols - cols.mean()) ** 2).argmin()
    left, top, right, bottom = pen.textbbox((0, 0), segment.caption, font=font)
    width, height = right - left + 6, bottom - top + 6
    if width > 1.5 * factor * (np.ptp(cols) + 1) or height > 1.5 * factor * (np.ptp(rows) + 1):
        return
    picture_width, picture_height = pen.im.size
    x = min(max(0, factor * cols[nearest] - width / 2), max(0, picture_width - width))
    y = min(max(0, factor * rows[nearest] - height / 2), max(0, picture_height - height))
    box = (x, y, x + width, y + height)
    if any(box[0] < b[2] and b[0] < box[2] and box[1] < b[3] and b[1] < box[3] for b in taken):
        return
    taken.append(box)
    pen.rounded_rectangle(box, radius=4, fill=(0, 0, 0))
    pen.text((x + 3 - left, y + 3 - top), segment.caption, fill=(255, 255, 255), font=font)


def side_by_side(panels: Sequence[tuple[str, Image.Image]]) -> Image.Image:
    """Pictures of equal size next to each other, each under its title, on white."""
    width, height = panels[0][1].size
    font_size = max(14, min(width, height) // 24)
    font = ImageFont.load_default(size=font_size)
    header = int(1.8 * font_size)
    canvas = Image.new('RGB', (len(panels) * (width + MARGIN) - MARGIN, header + height), 'white')
    pen = ImageDraw.Draw(canvas)
    for i, (title, picture) in enumerate(panels):
        x = i * (width + MARGIN)
        pen.text((x + 4, header / 2), title, fill='black', font=font, anchor='lm')
        canvas.paste(picture, (x, header))
    return canvas
