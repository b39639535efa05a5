"""Figures of matplotlib without its global state: no current figure, no backend chosen for the whole process."""

import io
from pathlib import Path

from matplotlib.figure import Figure
from PIL import Image

from eomt_mm.fileio.writing import write_whole

# Okabe and Ito's colours (see palettes.py) as lines on white: without yellow, and black last.
LINE_COLOURS = ('#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9', '#000000')


def new_figure(width: float, height: float) -> Figure:
    """A figure of so many inches whose parts make room for each other."""
    return Figure(figsize=(width, height), layout='constrained')


def save_picture(picture: Figure | Image.Image, path: str | Path, dpi: int = 110) -> None:
    """Writes a figure or a picture as PNG, whole or not at all; makes missing folders.

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
