"""Image files from anywhere: a limit of pixels before decoding, and damage that is named."""

import io
import json
import resource
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable

import cv2
import numpy as np
import pytest
from PIL import Image, ImageFile

from eomt_mm.fileio.image_headers import bits_per_channel
from eomt_mm.fileio.images import (
    MAX_PIXELS,
    VARIABLE,
    as_stored,
    check_image,
    check_pixels,
    decode_image,
    encode_png,
    pixel_limit,
)

H, W = 40, 60
FORMATS = {'jpg': 'JPEG', 'png': 'PNG', 'bmp': 'BMP', 'gif': 'GIF', 'tif': 'TIFF', 'webp': 'WEBP', 'ppm': 'PPM'}


def encoded(kind: str, size: tuple[int, int] = (W, H), **options: object) -> bytes:
    rng = np.random.default_rng(0)
    ramp = np.linspace(0, 200, size[0])[None, :, None] + np.linspace(0, 50, size[1])[:, None, None]
    file = io.BytesIO()
    pixels = (ramp + rng.integers(0, 6, (size[1], size[0], 3))).astype(np.uint8)
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def decoded(content: bytes) -> np.ndarray | None:
    return cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))


def declaring(kind: str, width: int, height: int) -> bytes:
    """A small file whose header declares another size."""
    content = bytearray(encoded(kind))
    if kind == 'PNG':
        header = struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0)
        return bytes(content[:8]) + chunk(b'IHDR', header) + bytes(content[33:])
    if kind == 'JPEG':
        place = content.index(b'\xff\xc0')
        content[place + 5 : place + 9] = struct.pack('>HH', height, width)
    elif kind == 'BMP':
        content[18:26] = struct.pack('<ii', width, height)
    elif kind == 'GIF':
        content[6:10] = struct.pack('<HH', width, height)
    elif kind == 'TIFF':
        (start,) = struct.unpack_from('<I', content, 4)
        for entry in range(start + 2, start + 2 + 12 * content[start], 12):
            tag = content[entry] + 256 * content[entry + 1]
            if tag in (256, 257):
                content[entry + 2 : entry + 12] = struct.pack('<HII', 4, 1, {256: width, 257: height}[tag])
    elif kind == 'PPM':
        return bytes(content).replace(f'{W} {H}'.encode(), f'{width} {height}'.encode(), 1)
    return bytes(content)


@pytest.mark.parametrize('kind', FORMATS.values())
def test_sizes_of_whole_files(kind: str) -> None:
    assert check_image(encoded(kind), 'image a') == (W, H)


@pytest.mark.parametrize('suffix', [suffix for suffix in FORMATS if cv2.haveImageWriter(f'a.{suffix}')])
def test_decoded_files_have_their_size(suffix: str) -> None:
    """Of the kinds that the installed OpenCV knows: GIF from 4.12 on."""
    assert decode_image(encoded(FORMATS[suffix]), 'image a', decoded).shape == (H, W, 3)


@pytest.mark.parametrize(
    'options',
    [
        dict(kind='JPEG', progressive=True),
        dict(kind='JPEG', exif=b'Exif\0\0' + encoded('JPEG', (8, 8))),  # a thumbnail with markers of its own
        dict(kind='JPEG', restart_marker_blocks=2),
        dict(kind='WEBP', lossless=True),
        dict(kind='WEBP', exif=b'Exif\0\0'),
        dict(kind='TIFF', compression='tiff_lzw'),
        dict(kind='JPEG2000'),
    ],
    ids=str,
)
def test_sizes_of_variants(options: dict) -> None:
    assert check_image(encoded(**options), 'image a') == (W, H)


@pytest.mark.parametrize('kind', FORMATS.values())
@pytest.mark.parametrize('lenient', [False, True])
def test_truncated_files_are_named(kind: str, lenient: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageFile, 'LOAD_TRUNCATED_IMAGES', lenient)
    content = encoded(kind)

    def by_pillow(content: bytes) -> np.ndarray:
        return np.asarray(Image.open(io.BytesIO(content)))

    for decode in (decoded, by_pillow):
        for length in (0, 3, 13, len(content) // 2, len(content) - 30):
            with pytest.raises(ValueError, match=r'image a/b.x cannot be decoded \(.*\): replace the file'):
                decode_image(content[:length], 'image a/b.x', decode)
    assert ImageFile.LOAD_TRUNCATED_IMAGES is lenient


@pytest.mark.parametrize(
    ('kind', 'size'),
    [
        *[(kind, (60000, 60000)) for kind in ('PNG', 'JPEG', 'BMP', 'GIF', 'TIFF', 'PPM')],
        *[(kind, (2**31 - 1, 2**31 - 1)) for kind in ('PNG', 'BMP', 'TIFF', 'PPM')],
    ],
)
def test_declared_sizes_are_refused_before_decoding(kind: str, size: tuple[int, int]) -> None:
    def decode(content: bytes) -> np.ndarray:
        raise AssertionError('decoded')

    with pytest.raises(
        ValueError, match=rf'^image a has {size[0]} x {size[1]} pixels, .* the limit is 120 million'
    ) as error:
        decode_image(declaring(kind, *size), 'image a', decode)
    assert VARIABLE in str(error.value) and 'max_pixels' in str(error.value)


@pytest.mark.parametrize('blank', [b' ', b'\n', b'#\n', b'# a\n '])
def test_blanks_in_a_header_take_no_time(blank: bytes) -> None:
    content = b'P6 ' + blank * 1010 + b'2 2 255\n' + bytes(12)
    assert bits_per_channel(content) == 8 and check_image(content, 'image a') == (2, 2)


def test_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    assert pixel_limit() == MAX_PIXELS
    check_pixels(12000, 9000, 'image a')  # the largest common cameras
    monkeypatch.setenv(VARIABLE, '1000')
    check_pixels(50, 20, 'image a')
    for arguments in ((51, 20, 'image a'), (0, 20, 'image a'), (50, 20, 'image a', 999)):
        with pytest.raises(ValueError, match='^image a has'):
            check_pixels(*arguments)
    for wrong in ('many', '0', '-1', '1e6'):
        monkeypatch.setenv(VARIABLE, wrong)
        with pytest.raises(ValueError, match=f'{VARIABLE}={wrong}: a whole number'):
            check_pixels(1, 1, 'image a')


def test_limits_of_the_hosts_do_not_show(monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder) -> None:
    """Pillow's is smaller than an image that a user may allow."""
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 100)
    for kind in FORMATS.values():
        found = decode_image(encoded(kind), 'image a', lambda content: np.asarray(Image.open(io.BytesIO(content))))
        assert found.shape[:2] == (H, W)
    assert not recwarn and Image.MAX_IMAGE_PIXELS == 100


@pytest.mark.parametrize('mode', ['L', 'P', 'I;16', 'RGB'])
def test_single_bit_flips_of_png_are_named(mode: str) -> None:
    rng = np.random.default_rng(5)
    labels = np.kron(rng.integers(0, 150, (8, 8)), np.ones((8, 8))).astype(np.uint16 if mode == 'I;16' else np.uint8)
    image = Image.fromarray(labels if mode != 'RGB' else np.stack([labels] * 3, -1))
    if mode == 'P':
        image.putpalette(rng.integers(0, 256, 768).tolist())
    file = io.BytesIO()
    image.save(file, 'PNG')
    content, whole = file.getvalue(), decoded(file.getvalue())
    named = 0
    for bit in rng.choice(8 * len(content), 60, replace=False):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        try:
            assert np.array_equal(decode_image(bytes(damaged), 'label map a', decoded), whole)
        except ValueError as error:
            assert str(error).startswith('label map a ')
            named += 1
    assert named == 60


def test_missing_parts_of_png_are_named() -> None:
    """Every checksum matches, but data are missing; OpenCV answers with None."""
    content = encoded('PNG')
    start = content.index(b'IDAT') - 4
    data = content[start + 8 : -16]
    header, end = content[:start], content[-12:]
    for kept in (data[: len(data) // 2], data[:1000] + data[1500:], b''):
        with pytest.raises(ValueError, match='image a cannot be decoded'):
            decode_image(header + chunk(b'IDAT', kept) + end, 'image a', decoded)


SCRIPT = """
import io, json, sys, zlib, struct, resource
import numpy as np
from eomt_mm.fileio.images import check_image
content = sys.stdin.buffer.read()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    check_image(content, 'image a')
except ValueError as error:
    print(json.dumps([str(error), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before]))
"""


def test_large_image_in_a_small_file_takes_no_memory() -> None:
    side = 32000
    stream = zlib.compressobj(9)
    row = bytes(side + 1)
    data = b''.join(stream.compress(row) for _ in range(side // 100)) + stream.flush()  # a part of it is enough
    header = struct.pack('>IIBBBBB', side, side, 8, 0, 0, 0, 0)
    content = b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', header) + chunk(b'IDAT', data) + chunk(b'IEND', b'')
    limit: Callable[[], None] = lambda: resource.setrlimit(resource.RLIMIT_AS, (2**31, 2**31))  # noqa: E731
    run = subprocess.run(
        [sys.executable, '-c', SCRIPT], input=content, capture_output=True, timeout=60, preexec_fn=limit, check=True
    )
    message, kilobytes = json.loads(run.stdout)
    assert message.startswith('image a has 32000 x 32000 pixels') and kilobytes < 20_000


def test_images_are_encoded_or_refused_by_name() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    assert np.array_equal(as_stored(encode_png(pixels, 'picture a.png')), pixels)
    with pytest.raises(ValueError, match='picture a.png has 1000001 x 1 pixels and cannot be written as PNG'):
        encode_png(np.zeros((1, 1_000_001), np.uint8), 'picture a.png')
