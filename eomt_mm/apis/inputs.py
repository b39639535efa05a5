"""Turn inference inputs (files, folders, arrays, PIL images, videos) into a sequence of images."""

import itertools
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import cv2
import numpy as np
import torch
from PIL import Image

from eomt_mm.apis.input_files import VIDEO_SUFFIXES, files_of
from eomt_mm.fileio.images import IMAGE_SUFFIXES, check_pixels
from eomt_mm.fileio.pixels import CHANNELS, bgr_pixels, checked_array, pil_pixels

CHANNEL_ORDERS = ('bgr', 'rgb')
DEFAULT_FPS = 25.0  # of files that do not state a frame rate
# Suffixes of videos that state their number of frames. For others, OpenCV estimates it from duration and frame rate.
EXACT = ('.avi', '.m4v', '.mov', '.mp4')


@dataclass(frozen=True)
class Video:
    """A video file, read frame by frame.

    Attributes:
        name: name of its results, unique within a call.
        path: the file; for other videos, their folder or None.
        fps: frames per second.
        num_frames: as stated in the file; 0 if it is not stated.
    """

    name: str
    path: Path | None
    fps: float
    num_frames: int

    @classmethod
    def open(cls, name: str, path: Path) -> 'Video':
        """Open a video file and read its frame rate and number of frames.

        Raises:
            ValueError: OpenCV cannot read it, or its frames have too many pixels.
        """
        capture = cv2.VideoCapture(str(path))
        try:
            if not capture.isOpened():
                raise ValueError(f'video {path} cannot be read: convert it, for instance with ffmpeg to H.264 in .mp4')
            fps, count = capture.get(cv2.CAP_PROP_FPS), capture.get(cv2.CAP_PROP_FRAME_COUNT)
            width, height = capture.get(cv2.CAP_PROP_FRAME_WIDTH), capture.get(cv2.CAP_PROP_FRAME_HEIGHT)
        finally:
            capture.release()
        check_pixels(max(1, int(width)), max(1, int(height)), f'video {path}')  # below 1: not stated in the file
        return cls(name, path, fps if 0 < fps < 1000 else DEFAULT_FPS, max(0, int(count)))

    @property
    def files(self) -> list[Path]:
        """Files that the video is read from."""
        return [] if self.path is None else [self.path]

    def frames(self) -> Iterator['ImageInput']:
        """Yield the frames in order; only the current one is in memory.

        Raises:
            ValueError: no frame can be decoded.
        """
        capture = cv2.VideoCapture(str(self.path))
        try:
            index = 0
            while True:
                done, frame = capture.read()
                if not done:
                    break
                yield ImageInput(f'{self.name}/{index:06d}', pixels=partial(np.asarray, frame), video=self)
                index += 1
        finally:
            capture.release()
        if index == 0:
            raise ValueError(f'video {self.path} has no frame that can be decoded: replace or convert it')


@dataclass(frozen=True)
class ImageInput:
    """One input image.

    Attributes:
        name: name of its results, unique within a call: the file name without suffix, relative to the input folder if
            one was given.
        path: its file; None for arrays, PIL images and frames.
        pixels: for images without a file, a function that returns the pixels as uint8 (H, W, 3), BGR.
        video: the video that a frame belongs to, else None.
    """

    name: str
    path: Path | None = None
    pixels: Callable[[], np.ndarray] | None = None
    video: Video | None = None

    @property
    def files(self) -> list[Path]:
        """Files that the image is read from; those of a frame are its video's."""
        return [] if self.path is None else [self.path]

    @property
    def origin(self) -> Path:
        """The image's file, or that of the frame's video, or its name, for messages."""
        return self.path or (self.video and self.video.path) or Path(self.name)


Source: TypeAlias = ImageInput | Video


class Names:
    """Unique names for the images of a call; names that differ only in upper and lower case count as equal.

    Args:
        numbers: running numbers of images without a file, which several calls may share; None: from 0 on.
    """

    def __init__(self, numbers: Iterator[int] | None = None) -> None:
        self._numbers = itertools.count() if numbers is None else numbers
        self._taken: set[str] = set()

    def unique(self, name: str) -> str:
        """Return ``name``, with ``_2``, ``_3``, ... appended if it is taken."""
        candidate, count = name, 1
        while candidate.casefold() in self._taken:
            count += 1
            candidate = f'{name}_{count}'
        self._taken.add(candidate.casefold())
        return candidate

    def next_number(self) -> str:
        """Return the next running number as a name: '00000000', '00000001', ..."""
        return self.unique(f'{next(self._numbers):08d}')


def find_sources(
    inputs: Any,
    channel_order: str = 'bgr',
    names: Names | None = None,
    suffixes: Sequence[str] = IMAGE_SUFFIXES,
    unreadable: list[Path] | None = None,
    bits: int | None = None,
) -> list[Source]:
    """List the images and videos of the inputs, and check them as far as possible without reading images.

    Args:
        inputs: path of an image, of a video, or of a folder (its images and those of its sub-folders, folder by folder
            in the order of names, 9 before 10); pattern such as 'photos/*.jpg'; array (H, W), (H, W, 3) or (H, W, 4),
            or tensor, also (C, H, W); PIL image; or a list of these. :mod:`eomt_mm.fileio.pixels` states which pixels.
        channel_order: of arrays and tensors with several channels, 'bgr' as everywhere in OpenMMLab, or 'rgb'.
        names: names taken so far; None: none.
        suffixes: suffixes of the files to find in folders.
        unreadable: list that collects videos that cannot be read, with a warning; None: raise an error.
        bits: of arrays, tensors and PIL images with more than 8; see :func:`~eomt_mm.fileio.pixels.to_8_bits`.

    Raises:
        FileNotFoundError: there is no such file, or a folder contains no images.
        TypeError: an input has an unsupported type.
        ValueError: an input is a URL, an empty list, an array of an unsupported shape or type, or an unreadable video.
    """
    if channel_order not in CHANNEL_ORDERS:
        raise ValueError(f"channel_order='{channel_order}': one of {CHANNEL_ORDERS}")
    given = list(inputs) if isinstance(inputs, list | tuple) else [inputs]
    if not given:
        raise ValueError('inputs is an empty list: give images, or paths of them')
    names = names or Names()
    sources: list[Source] = []
    errors: list[Path] | None = None if len(given) == 1 else unreadable
    for number, one in enumerate(given):
        try:
            if isinstance(one, str | os.PathLike):
                sources += _from_path(os.fspath(one), names, suffixes, unreadable)
            else:
                sources.append(ImageInput(names.next_number(), pixels=_reader(one, channel_order, bits)))
        except (OSError, TypeError, ValueError) as error:
            report(error, str(one) if isinstance(one, str | os.PathLike) else f'input {number}', errors)
    return sources


def report(error: Exception, path: Path | str, unreadable: list[Path] | None) -> None:
    """Warn about an input that is left out and add its path to ``unreadable``, or without that list raise the error.

    Frames of a video are reported once.
    """
    if unreadable is None:
        raise error
    if unreadable[-1:] != [Path(path)]:
        named = f'{error}' if Path(path).name in str(error) else f'{path}: {error}'
        warnings.warn(f'skipped: {named}', stacklevel=3)
        unreadable.append(Path(path))


def images_of(sources: Iterable[Source], unreadable: list[Path] | None = None) -> Iterator[ImageInput]:
    """Yield the images of all sources, and videos frame by frame.

    A video that lacks frames which its file states is reported by a warning and in ``unreadable``.

    Args:
        sources: what `find_sources` returned.
        unreadable: list that collects videos without frames, with a warning; None: raise an error.

    Raises:
        ValueError: a video has no frame that can be decoded.
    """
    for source in sources:
        if isinstance(source, ImageInput):
            yield source
            continue
        count = 0
        try:
            for frame in source.frames():
                yield frame
                count += 1
        except ValueError as error:
            report(error, source.path or source.name, unreadable)
        if 0 < count < source.num_frames:
            ended = ValueError(
                f'video {source.path}: {count} frames can be decoded, and the file states {source.num_frames}: replace '
                'or convert it'
            )
            is_exact = source.path is not None and source.path.suffix.lower() in EXACT
            report(ended, source.path or source.name, unreadable if is_exact and unreadable is not None else [])


def count_images(sources: Iterable[Source]) -> int | None:
    """Number of images; None if a video does not state its number of frames."""
    counts = [source.num_frames if isinstance(source, Video) else 1 for source in sources]
    return sum(counts) if all(counts) else None


def _from_path(given: str, names: Names, suffixes: Sequence[str], unreadable: list[Path] | None) -> Iterator[Source]:
    """Yield the images and videos that a path or pattern stands for; report videos that cannot be opened."""
    for file, name in files_of(given, suffixes, partial(report, unreadable=unreadable)):
        name = names.unique(name)
        if file.suffix.lower() not in VIDEO_SUFFIXES:
            yield ImageInput(name, file)
            continue
        try:
            yield Video.open(name, file)
        except ValueError as error:
            report(error, file, unreadable)


def _reader(image: Any, channel_order: str, bits: int | None) -> Callable[[], np.ndarray]:
    """Check an array, tensor or PIL image, and return a function that converts it to BGR pixels when called."""
    if isinstance(image, Image.Image):
        check_pixels(image.width, image.height, 'PIL image')
        return partial(pil_pixels, image, bits=bits)
    name = 'image array'
    if isinstance(image, torch.Tensor):
        name, image = 'image tensor', _channels_last(image)
    if not isinstance(image, np.ndarray):
        raise TypeError(
            f'input of type {type(image).__name__}: give paths, uint8 arrays (H, W, 3), tensors or PIL images (the '
            'content of a file as PIL.Image.open(io.BytesIO(content)))'
        )
    return partial(bgr_pixels, checked_array(image, name, bits), channel_order)


def _channels_last(image: torch.Tensor) -> np.ndarray:
    """Array of a tensor (C, H, W) or (H, W, C): the channels are the side of 1, 3 or 4.

    Raises:
        ValueError: the tensor is not of whole numbers, or both its first and its last side can be the channels.
    """
    if image.is_floating_point() or image.is_complex():
        raise ValueError(f'image tensor of type {image.dtype}: give torch.uint8 in [0, 255]')
    values: np.ndarray = image.detach().cpu().numpy()
    if values.ndim != 3 or values.shape[0] not in CHANNELS:
        return values
    if values.shape[2] in CHANNELS:
        raise ValueError(
            f'image tensor of shape {values.shape}: the first or the last side can be the channels; give an array'
        )
    return values.transpose(1, 2, 0)
