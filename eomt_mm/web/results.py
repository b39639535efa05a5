"""Results for the page of tools/web_demo.py: picture, table and status line of an image. Independent of gradio."""

import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image
from torch.overrides import TorchFunctionMode

from eomt_mm.apis.inferencer import EoMTInferencer
from eomt_mm.apis.inferencer_parts import INSTANCE_SCORE_THR, head_settings
from eomt_mm.apis.inputs import ImageInput, Names
from eomt_mm.fileio.images import check_image
from eomt_mm.visualization import DrawnSegment, draw_segments
from eomt_mm.web.limits import MAX_PIXELS, MAX_RATIO, MAX_SEGMENTED, TIME_LIMIT

MAX_SIDE = 1600  # pixels, of the picture


@dataclass(frozen=True)
class Found:
    """What was found in an image.

    Attributes:
        image: (H, W, 3) uint8 RGB, as it was segmented: of at most ``MAX_SEGMENTED`` pixels.
        size: (height, width) of the image file.
        segments: not empty, in the order in which they are drawn.
        seconds: of each step.
    """

    image: np.ndarray
    size: tuple[int, int]
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
    """Default thresholds of score and overlap; None if the task has none."""
    if inferencer.task == 'panoptic':
        head: Any = inferencer.head
        return head.score_thr, head.overlap_thr
    return (INSTANCE_SCORE_THR if inferencer.task == 'instance' else None), None


def find_segments(
    inferencer: EoMTInferencer,
    path: str | Path,
    score_thr: float | None = None,
    overlap_thr: float | None = None,
    max_pixels: int = MAX_PIXELS,
    time_limit: float = TIME_LIMIT,
) -> Found:
    """Segment an image file; several threads may do so at the same time.

    Args:
        inferencer: model.
        path: of the image; grey images, transparency and rotation by EXIF are supported.
        score_thr, overlap_thr: see :meth:`EoMTInferencer.stream`; ignored if the task has none.
        max_pixels: of the image; more are refused before decoding.
        time_limit: seconds; checked before every operation on tensors and after every step.

    Raises:
        TimeoutError: it took longer.
        ValueError: the file is no image that can be read, or too large; names it without its folder.
    """
    offered = [
        None if default is None else (default if given is None else given)
        for default, given in zip(thresholds(inferencer), (score_thr, overlap_thr), strict=True)
    ]
    settings = head_settings(inferencer.task, offered[0], offered[1], samples=False)
    path = Path(path)
    seconds: dict[str, float] = {}
    with Deadline(time_limit) as deadline:
        with _timed(seconds, 'preprocessing'):
            pixels, size = _load(inferencer, path, max_pixels)
            _, data = next(inferencer.preprocess([ImageInput(path.stem, pixels=lambda: pixels)]))
        deadline.check()
        with _timed(seconds, 'model and post-processing'):
            (sample,) = inferencer.forward(data, **settings)
        deadline.check()
    segments = inferencer.drawn(inferencer.segments(sample, offered[0] or 0.0))
    image = np.ascontiguousarray(pixels[..., ::-1])
    return Found(image, size, [segment for segment in segments if segment.mask.any()], seconds)


def check_size(path: Path, max_pixels: int = MAX_PIXELS) -> None:
    """Check an image file, and compare the size that it states with the limits, without decoding it.

    Raises:
        ValueError: it is damaged, too large or too narrow; names it without its folder.
    """
    content = path.read_bytes()
    name = f'image {path.name}'
    width, height = check_image(content, name, limit=sys.maxsize, fix='choose another image')
    if width * height > max_pixels:
        raise ValueError(
            f'{name} has {width} x {height} pixels; the limit is {max_pixels / 1e6:g} million: shrink or cut it, or '
            'start the page with a larger --max-pixels'
        )
    if max(width, height) > MAX_RATIO * min(width, height):
        raise ValueError(
            f'{name} has {width} x {height} pixels: one side is more than {MAX_RATIO} times the other; cut it'
        )


def picture(found: Found, opacity: float) -> Image.Image:
    """The image under its segments, at most ``MAX_SIDE`` pixels wide and high; ``opacity`` is in [0, 1]."""
    return draw_segments(found.image, found.segments, opacity, max_side=MAX_SIDE)


def line(found: Found) -> str:
    """Number of segments, size of the image and times, in one line."""
    (h, w), (used_h, used_w) = found.size, found.image.shape[:2]
    size = f'{w} x {h} pixels' + ('' if (h, w) == (used_h, used_w) else f', segmented at {used_w} x {used_h}')
    count = len(found.segments)
    times = [f'{step} {1000 * seconds:.0f} ms' for step, seconds in found.seconds.items()]
    return ' · '.join([f'{count} segment{"" if count == 1 else "s"}', size, *times])


def table(found: Found) -> str:
    """Segments as an HTML table, largest first: colour, label, score, area in pixels as segmented, and its share."""
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


def _load(inferencer: EoMTInferencer, path: Path, max_pixels: int) -> tuple[np.ndarray, tuple[int, int]]:
    """Pixels (H, W, 3), uint8, BGR, of at most ``MAX_SEGMENTED`` pixels, and (height, width) of the file."""
    check_size(path, max_pixels)
    try:
        pixels = inferencer.load_image(dict(img_path=str(path)))['img']
    except (OSError, ValueError) as error:
        words = str(error).replace(str(path), path.name).split()  # OpenCV's messages have several lines
        raise ValueError(' '.join(words)) from error
    height, width = pixels.shape[:2]
    scale = math.sqrt(MAX_SEGMENTED / (height * width))
    if scale < 1:
        smaller = max(1, int(scale * width)), max(1, int(scale * height))
        pixels = cv2.resize(pixels, smaller, interpolation=cv2.INTER_AREA)
    return pixels, (height, width)


class Deadline(TorchFunctionMode):
    """Within this context, operations of this thread on tensors raise TimeoutError after ``seconds``."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds
        self._end = time.monotonic() + seconds

    def check(self) -> None:
        """Raise TimeoutError if the time is over."""
        if time.monotonic() > self._end:
            raise TimeoutError(
                f'the image took longer than {self.seconds:g} seconds: give a smaller one, or start the page with a '
                'larger --time-limit'
            )

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if any(isinstance(arg, torch.Tensor) for arg in args):  # not what leaves no_grad, which has to be done
            self.check()
        return func(*args, **(kwargs or {}))
