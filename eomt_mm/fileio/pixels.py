"""One rule for the pixels of an image, however it is given: (H, W, 3), uint8, BGR.

Whole numbers of 8 bits are kept. Deeper ones are refused unless the number of bits in use is stated; floats and
booleans are always refused. Grey becomes three equal channels, and alpha is dropped. Colour profiles are ignored.
"""

import os
import struct
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageFile, ImageOps

from eomt_mm.fileio.image_headers import (
    JPEG_START,
    TIFF_STARTS,
    bits_per_channel,
    has_tiff_alpha,
    jpeg_frame,
    largest_value,
)

BITS_VARIABLE = 'EOMT_MM_IMAGE_BITS'
CHANNELS = (1, 3, 4)  # grey; colours; colours with alpha
DEEP_MODES = ('F', 'I', 'I;16', 'I;16B', 'I;16L', 'I;16N')  # Pillow modes with more than 8 bits; none has colour
# Formats of which Pillow reduces colours of more than 8 bits to 8 as it decodes; of the first two it drops 8 of 16.
CUT_BY_PILLOW = ('PNG', 'TIFF', 'AVIF', 'JPEG2000', 'PPM')
DROPS_LOWER_BITS = CUT_BY_PILLOW[:2]
CMYK_CHANNELS = 4


def used_bits() -> int | None:
    """Bits of images with more than 8: the environment variable EOMT_MM_IMAGE_BITS; None: such images are refused.

    Raises:
        ValueError: the variable is no number from 9 to 16.
    """
    stated = os.environ.get(BITS_VARIABLE)
    return check_bits(int(stated) if stated.isdecimal() else stated, BITS_VARIABLE) if stated else None


def check_bits(bits: int | str, whose: str) -> int:
    """Check and return a number of bits, 9 to 16; ``whose`` is the setting, for the message."""
    if not isinstance(bits, int) or not 8 < bits <= 16:
        raise ValueError(f'{whose}={bits}: 9 to 16, the bits that images of more than 8 use')
    return bits


def to_8_bits(pixels: np.ndarray, name: str, bits: int | None = None) -> np.ndarray:
    """Pixels of more than 8 bits per channel as uint8, where it is stated how many bits they use.

    Args:
        pixels: any shape; uint8 is returned unchanged.
        name: of the image, for the message.
        bits: N that they use: values from 0 to 2 ** N - 1 become 0 to 255; None: `used_bits()`.

    Raises:
        ValueError: it is not stated, or the pixels are not whole numbers from 0 to 65535.
    """
    if pixels.dtype == np.uint8:
        return pixels
    if pixels.dtype.kind not in 'iu':
        raise ValueError(f'{name} of type {pixels.dtype}: give uint8 in [0, 255], scaled as the model was trained')
    low, high = (pixels.min(), pixels.max()) if pixels.size else (0, 0)
    found = f'{name} has values of type {pixels.dtype} from {low} to {high}, and images have 8 bits'
    if not 0 <= low <= high < 1 << 16:
        raise ValueError(f'{found}: convert it')
    bits = used_bits() if bits is None else bits
    if bits is None:
        needed = max(9, int(high).bit_length())
        raise ValueError(
            f'{found}: convert it, or state how many bits its pixels use ({needed} hold values up to '
            f'{(1 << needed) - 1}) in the environment variable {BITS_VARIABLE}, or as bits of LoadImage'
        )
    return np.minimum(pixels.astype(np.uint16, copy=False) >> (bits - 8), 255).astype(np.uint8)


def checked_array(image: np.ndarray, name: str = 'image array', bits: int | None = None) -> np.ndarray:
    """Check the shape of an image array, and return it with 8 bits (:func:`to_8_bits`).

    Args:
        image: (H, W), (H, W, 1), (H, W, 3) or (H, W, 4).
        name: of the image, for messages.
        bits: see :func:`to_8_bits`.

    Raises:
        ValueError: shape or type do not fit.
    """
    if image.ndim == 4:
        raise ValueError(f'{name} of shape {image.shape}: give a list of images, list(array)')
    if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] not in CHANNELS) or image.size == 0:
        raise ValueError(f'{name} of shape {image.shape}: give (H, W), (H, W, 3) or (H, W, 4), not empty')
    return to_8_bits(image, name, bits)


def bgr_pixels(image: np.ndarray, channel_order: str = 'bgr') -> np.ndarray:
    """Convert a :func:`checked_array` to (H, W, 3); ``channel_order`` is 'bgr' or 'rgb', with alpha last."""
    if image.ndim == 2 or image.shape[2] == 1:
        return np.repeat(image.reshape(*image.shape[:2], 1), 3, axis=2)
    return np.ascontiguousarray(image[..., :3] if channel_order == 'bgr' else image[..., 2::-1])


def pil_pixels(image: Image.Image, name: str = '', bits: int | None = None) -> np.ndarray:
    """Pixels of a PIL image, rotated according to its EXIF orientation: (H, W, 3), uint8, BGR.

    Args:
        image: of any mode.
        name: of the image, for messages.
        bits: see :func:`to_8_bits`. Pillow cuts colours of more than 8 bits to 8 as it decodes; images that have not
            been decoded yet, or whose file is known, are then refused, except 16 bits of PNG and TIFF with ``bits`` 16.

    Raises:
        ValueError: the image cannot be decoded, or has more than 8 bits.
    """
    name = f'{name or "PIL image"} of mode {image.mode}'
    _refuse_cut_colours(image, name, bits)
    try:
        turned = ImageOps.exif_transpose(image)
        values = np.asarray(turned if turned.mode in DEEP_MODES else turned.convert('RGB'))
    # PIL decodes only now, and passes on the errors of its codecs.
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f'{name} cannot be decoded ({error})') from error
    return bgr_pixels(to_8_bits(values, name, bits), 'rgb')


def file_pixels(content: bytes) -> np.ndarray | None:
    """Decode the pixels of an image file: (H, W, 3), BGR, rotated according to its EXIF orientation.

    OpenCV decodes, except files for which it differs from Pillow (:func:`_differs_in_opencv`). Deep files keep all bits
    of their type; :func:`to_8_bits` follows.

    Returns:
        pixels; None if OpenCV cannot decode the file.

    Raises:
        OSError, ValueError: Pillow cannot.
    """
    bits = bits_per_channel(content)
    if bits <= 8 and _differs_in_opencv(content):
        with Image.open(BytesIO(content)) as image:
            return pil_pixels(image)
    # Floats and numbers of 32 bits are refused by their type, but OpenCV fails to convert them to colours.
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH if bits <= 16 else cv2.IMREAD_UNCHANGED
    return cv2.imdecode(np.frombuffer(content, np.uint8), flags)


def _differs_in_opencv(content: bytes) -> bool:
    """Whether OpenCV decodes other pixels than Pillow.

    OpenCV multiplies colours by alpha in TIFF, shows transparent pixels of GIF black, ignores the rotation of AVIF, and
    does not scale PGM and PPM of less than 8 bits. CMYK in JPEG is rounded differently.
    """
    if content.startswith(JPEG_START):
        return jpeg_frame(content)[2] == CMYK_CHANNELS
    if content[:4] in TIFF_STARTS:
        return has_tiff_alpha(content)
    is_scaled = content[:2] in (b'P2', b'P3', b'P5', b'P6') and largest_value(content) != 255
    return is_scaled or content.startswith(b'GIF8') or content[4:8] == b'ftyp'


def _refuse_cut_colours(image: Image.Image, name: str, bits: int | None) -> None:
    """Raise ValueError for colours of more than 8 bits, of which Pillow passes on only 8."""
    if image.mode in DEEP_MODES or getattr(image, 'format', None) not in CUT_BY_PILLOW:
        return
    try:
        found = bits_per_channel(_file_of(image))
    except (OSError, struct.error, IndexError):  # Pillow reports damage when it decodes
        return
    drops_lower = image.format in DROPS_LOWER_BITS and found == 16
    if found > 8 and not (drops_lower and (bits or used_bits()) == 16):
        raise ValueError(
            f'{name} has {found} bits per channel, and Pillow reads 8 of them: give the path of its file, or convert it'
        )


def _file_of(image: Image.Image) -> bytes:
    """Content of the file that a PIL image was opened from; empty where it is not known any more."""
    if not isinstance(image, ImageFile.ImageFile):
        return b''
    if image.fp is None:
        name = os.fsdecode(image.filename) if image.filename else ''
        return Path(name).read_bytes() if os.path.isfile(name) else b''
    place = image.fp.tell()
    image.fp.seek(0)
    content = image.fp.read()
    image.fp.seek(place)
    return content
