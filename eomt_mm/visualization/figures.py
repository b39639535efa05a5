"""Figures of matplotlib without its global state: no current figure, no backend chosen for the whole process."""

import io
from pathlib import Path

from matplotlib.figure import Figure
from PIL import Image

from eomt_mm.fileio.writing import write_whole

# Okabe and Ito's colours (see palettes.py) as lines on white: without yellow, and black last.
LINE_COLOURS = ('#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9', '#000000')


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of ``width`` x ``height`` inches, with constrained layout."""
    return Figure(figsize=(width, height), layout='constrained')


def save_picture(picture: Figure | Image.Image, path: str | Path, dpi: int = 110) -> None:
    """Write a figure or a picture as PNG, completely or not at all; missing folders are made.

    Args:
        picture: what to write.
        path: of the file.
        dpi: dots per inch of a figure.
    """
    content = io.BytesIO()
    if isinstance(picture, Figure):
        picture.savefig(content, format='png', dpi=dpi)
    else:
        picture.save(content, format='png')
    write_whole(path, content.getvalue())
