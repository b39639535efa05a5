"""Pictures next to each other, under their titles, with the classes that they show."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from PIL import Image, ImageDraw

from eomt_mm.visualization.captions import font_of
from eomt_mm.visualization.palettes import Colour

MARGIN = 8
MIN_COLUMN = 160  # pixels; narrower pictures have room for their titles beside them


def side_by_side(panels: Sequence[tuple[str, Image.Image]], legend: Sequence[tuple[str, Colour]] = ()) -> Image.Image:
    """Pictures of equal size next to each other, each under its title, on white.

    Args:
        panels: at least one title and picture.
        legend: names and colours, in rows below the pictures.
    """
    width, height = panels[0][1].size
    font_size = max(14, min(width, height) // 24)
    header = int(1.8 * font_size)
    column = max(width, MIN_COLUMN) + MARGIN
    total = len(panels) * column - MARGIN
    below = _legend(legend, total, max(13, round(0.7 * font_size))) if legend else None
    canvas = Image.new('RGB', (total, header + height + (below.height if below else 0)), 'white')
    pen = ImageDraw.Draw(canvas)
    for i, (title, picture) in enumerate(panels):
        x = i * column
        pen.text((x + 4, header / 2), title, fill='black', font=font_of(font_size), anchor='lm')
        canvas.paste(picture, (x, header))
    if below:
        canvas.paste(below, (0, header + height))
    return canvas


def legend_of(names: Iterable[str], meta: Mapping[str, Any]) -> list[tuple[str, Colour]]:
    """Names and colours of the classes that are drawn, in the order of ``classes`` in the meta of a data set."""
    drawn = set(names)
    return [(name, colour) for name, colour in zip(meta['classes'], meta['palette'], strict=False) if name in drawn]


def _legend(entries: Sequence[tuple[str, Colour]], width: int, font_size: int) -> Image.Image:
    """Rows of coloured squares with names, (width, as high as needed)."""
    font, square, line = font_of(font_size), font_size, round(1.6 * font_size)
    places: list[tuple[float, int]] = []
    x, row = float(MARGIN), 0
    for name, _ in entries:
        length = 1.5 * square + font.getlength(name) + 1.2 * font_size
        if x > MARGIN and x + length > width:
            x, row = float(MARGIN), row + 1
        places.append((x, MARGIN + row * line))
        x += length
    canvas = Image.new('RGB', (width, (row + 1) * line + 2 * MARGIN), 'white')
    pen = ImageDraw.Draw(canvas)
    for (name, colour), (x, y) in zip(entries, places, strict=True):
        pen.rectangle((x, y, x + square, y + square), fill=colour, outline='black')
        pen.text((x + 1.5 * square, y + square / 2), name, fill='black', font=font, anchor='lm')
    return canvas
