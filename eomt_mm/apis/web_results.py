"""What the page of tools/web_demo.py shows of an image: picture, table and a line on them. Knows no browser."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from eomt_mm.apis.inferencer import INSTANCE_SCORE_THR, EoMTInferencer
from eomt_mm.apis.inferencer_parts import head_settings
from eomt_mm.apis.inputs import ImageInput, Names
from eomt_mm.engine.pictures import predicted_segments
from eomt_mm.visualization import DrawnSegment, draw_segments

MAX_SIDE = 1600  # pixels, of the picture; the table tells of the image as it is


@dataclass(frozen=True)
class Found:
    """What was found in an image.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        segments: not empty, in the order in which they are drawn.
        seconds: of each step.
    """

    image: np.ndarray
    segments: list[DrawnSegment]
    seconds: dict[str, float]


def load_models(pairs: list[tuple[str, str]], device: str | None = None) -> dict[str, EoMTInferencer]:
    """Models by the names that the page offers: their task and config.

    Args:
        pairs: config and checkpoint of each, as :class:`~eomt_mm.apis.inferencer.EoMTInferencer` takes them.
        device: of all; None: the GPU where there is one.

    Raises:
        FileNotFoundError, ValueError: as the inferencer does.
    """
    names, models = Names(), {}
    for config, checkpoint in pairs:
        inferencer = EoMTInferencer(config, checkpoint, device, show_progress=False)
        models[names.unique(f'{inferencer.task}: {Path(config).stem}')] = inferencer
    return models


def thresholds(inferencer: EoMTInferencer) -> tuple[float | None, float | None]:
    """The score and overlap thresholds that hold unless others are asked for; None where the task has none."""
    if inferencer.task == 'panoptic':
        head: Any = inferencer.head
        return head.score_thr, head.overlap_thr
    return (INSTANCE_SCORE_THR if inferencer.task == 'instance' else None), None


def find_segments(
    inferencer: EoMTInferencer, path: str | Path, score_thr: float | None = None, overlap_thr: float | None = None
) -> Found:
    """Segments an image file.

    Args:
        inferencer: model.
        path: of the image; grey, with transparency, or turned by its EXIF entry is fine.
        score_thr, overlap_thr: see :meth:`EoMTInferencer.stream`; left aside where the task has none.

    Raises:
        ValueError: the file is no image that can be read; names it without its folder.
    """
    offered = [
        None if default is None else (default if given is None else given)
        for default, given in zip(thresholds(inferencer), (score_thr, overlap_thr), strict=True)
    ]
    settings = head_settings(inferencer.task, offered[0], offered[1], scores=False)
    path = Path(path)
    seconds: dict[str, float] = {}
    with _timed(seconds, 'preprocessing'):
        try:
            loaded, data = next(inferencer.preprocess([ImageInput(path.stem, path)]))
        except (OSError, ValueError) as error:
            words = str(error).replace(str(path), path.name).split()  # OpenCV's messages have several lines
            raise ValueError(' '.join(words)) from error
    with _timed(seconds, 'model and post-processing'):
        (sample,) = inferencer.forward(data, **settings)
    segments = predicted_segments(sample, inferencer.meta, offered[0] or 0.0)
    image = np.ascontiguousarray(loaded[0][1][..., ::-1])
    return Found(image, [segment for segment in segments if segment.mask.any()], seconds)


def picture(found: Found, opacity: float) -> Image.Image:
    """The image under its segments, at most ``MAX_SIDE`` pixels wide and high; ``opacity`` is in [0, 1]."""
    return draw_segments(found.image, found.segments, opacity, max_side=MAX_SIDE)


def line(found: Found) -> str:
    """Number of segments, size of the image and times, in one line."""
    h, w = found.image.shape[:2]
    count = len(found.segments)
    times = [f'{step} {1000 * seconds:.0f} ms' for step, seconds in found.seconds.items()]
    return ' · '.join([f'{count} segment{"" if count == 1 else "s"}', f'{w} x {h} pixels', *times])


def table(found: Found) -> str:
    """Segments as an HTML table, largest first: colour, label, score, area in pixels and as a share of the image."""
    pixels = found.image.shape[0] * found.image.shape[1]
    rows = [(int(np.count_nonzero(segment.mask)), segment) for segment in found.segments]
    rows.sort(key=lambda row: -row[0])
    if not rows:
        return '<p>No segment passes the thresholds: lower them.</p>'
    head = '<tr><th></th><th>label</th><th>score</th><th>area (pixels)</th><th>share</th></tr>'
    body = ''.join(
        f'<tr><td><i style="background: rgb{segment.colour}"></i></td><td>{escape(segment.name)}</td>'
        f'<td>{"&ndash;" if segment.score is None else f"{segment.score:.2f}"}</td>'
        f'<td>{area}</td><td>{area / pixels:.1%}</td></tr>'
        for area, segment in rows
    )
    return f'<table><thead>{head}</thead><tbody>{body}</tbody></table>'


@contextmanager
def _timed(seconds: dict[str, float], step: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[step] = time.perf_counter() - start
