"""Decode image files safely: limit the number of pixels, check the file, then decode it.

A file of 100 KB can decode to gigabytes, so the size is read from the header first. OpenCV ignores the checksums of PNG
files and fills truncated JPEG files with grey in some versions; here such files are errors that name them.
"""

import io
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import cv2
import numpy as np
from PIL import Image, ImageFile

from eomt_mm.fileio.image_headers import bits_per_channel, image_size

# Allows images of the largest common cameras (108 million pixels). Such an image takes 360 MB decoded, and up to 80
# bytes per pixel, 10 GB, until its panoptic prediction is drawn.
MAX_PIXELS = 120_000_000
# Ends of the names of files that OpenCV and Pillow both decode; compared in lower case.
IMAGE_SUFFIXES = ('.bmp', '.jfif', '.jpe', '.jpeg', '.jpg', '.pgm', '.png', '.ppm', '.tif', '.tiff', '.webp')
VARIABLE = 'EOMT_MM_MAX_PIXELS'


def pixel_limit() -> int:
    """The largest number of pixels of an image file: the environment variable EOMT_MM_MAX_PIXELS, or `MAX_PIXELS`.

    Raises:
        ValueError: the variable is no number above 0.
    """
    stated = os.environ.get(VARIABLE)
    if not stated:
        return MAX_PIXELS
    if not stated.isdecimal() or int(stated) == 0:
        raise ValueError(f'{VARIABLE}={stated}: a whole number of pixels above 0, such as {MAX_PIXELS}')
    return int(stated)


def check_pixels(width: int, height: int, name: str, limit: int | None = None) -> None:
    """Compare the size of an image with the limit.

    Args:
        width, height: in pixels.
        name: of the image, for the message, such as 'image a/b.jpg'.
        limit: number of pixels; None: `pixel_limit()`.

    Raises:
        ValueError: there are more, or none.
    """
    limit = pixel_limit() if limit is None else limit
    if width < 1 or height < 1:
        raise ValueError(f'{name} has {width} x {height} pixels: replace the file')
    if width * height > limit:
        raise ValueError(
            f'{name} has {width} x {height} pixels, {width * height / 1e6:.1f} million; the limit is '
            f'{limit / 1e6:g} million: shrink or cut it, or raise the environment variable {VARIABLE}, or '
            'max_pixels of LoadImage or LoadSemanticMap'
        )


def check_image(content: bytes, name: str, limit: int | None = None, fix: str = 'replace the file') -> tuple[int, int]:
    """Check an image file without decoding it: size, completeness and, where the format has them, checksums.

    Args:
        content: of the whole file.
        name: of the image, for messages.
        limit: number of pixels; None: `pixel_limit()`.
        fix: end of the message for a damaged file.

    Returns:
        (width, height) in pixels, as the header states them.

    Raises:
        ValueError: the file is damaged, of no known format, or too large.
    """
    try:
        with _checking_pillow():
            width, height = image_size(content)
    except ValueError as error:
        raise ValueError(f'{name} cannot be decoded ({error}): {fix}') from error
    check_pixels(width, height, name, limit)
    return width, height


def decode_image(
    content: bytes,
    name: str,
    decode: Callable[[bytes], np.ndarray | None],
    limit: int | None = None,
    fix: str = 'replace the file',
) -> np.ndarray:
    """Check an image file as `check_image` does, then decode it.

    Args:
        content, name, limit, fix: as of `check_image`.
        decode: function from a file's content to its pixels; may raise anything, or return None as OpenCV does.

    Returns:
        what ``decode`` returns.

    Raises:
        ValueError: as `check_image`, or ``decode`` failed.
    """
    check_image(content, name, limit, fix)
    try:
        with _checking_pillow():
            pixels = decode(content)
    # Decoders raise whatever their libraries do.
    except Exception as error:
        raise ValueError(f'{name} cannot be decoded ({error}): {fix}') from error
    if pixels is None:
        raise ValueError(f'{name} cannot be decoded ({len(content)} bytes): {fix}')
    return pixels


def as_stored(content: bytes) -> np.ndarray | None:
    """Decode with OpenCV without conversion: (H, W) or (H, W, channels), colours in BGR order; None if that fails."""
    return cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)


def encode_png(pixels: np.ndarray, name: str) -> bytes:
    """Encode pixels (H, W) or (H, W, 3), BGR, uint8 or uint16, as a PNG file; ``name`` is for the message.

    Raises:
        ValueError: a side is too long for the encoder.
    """
    done, content = cv2.imencode('.png', pixels)
    if not done:
        raise ValueError(
            f'{name} has {pixels.shape[1]} x {pixels.shape[0]} pixels and cannot be written as PNG: cut it'
        )
    return content.tobytes()


def stored_values(values: np.ndarray, content: bytes) -> np.ndarray:
    """Undo the scaling of grey images of 1, 2 or 4 bits, which decoders spread over 0 .. 255, for maps of numbers.

    Args:
        values: (H, W), decoded from ``content``; others than uint8 are returned unchanged.
        content: of the file, PNG or TIFF.
    """
    bits = bits_per_channel(content)
    if bits >= 8 or values.dtype != np.uint8:
        return values
    with Image.open(io.BytesIO(content)) as image:
        is_palette = image.mode == 'P'
    return values if is_palette else values // np.uint8(255 // ((1 << bits) - 1))


@contextmanager
def _checking_pillow() -> Iterator[None]:
    """Turn off Pillow's own limit, which `check_pixels` replaces, and its tolerance for truncated files."""
    global _num_checking, _settings
    with _lock:
        if _num_checking == 0:
            _settings = Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES
            Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES = None, False
        _num_checking += 1
    try:
        yield
    finally:
        with _lock:
            _num_checking -= 1
            if _num_checking == 0:
                Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES = _settings


_lock = threading.Lock()
_num_checking = 0
_settings: tuple[int | None, bool] = (None, False)
