"""Sizes of image files from their headers, with the checks that the formats allow; nothing is decoded.

PNG: https://www.w3.org/TR/png-3 (chunks 5.3, checksums 5.4). JPEG: ITU-T T.81, Annex B. TIFF: revision 6.0, section 2.
WebP: RFC 9649. JPEG 2000: ITU-T T.800. AVIF: AV1 in ISO base media, 2.3.3 (the first flags of av1C).
"""

import io
import re
import struct
import zlib
from collections.abc import Iterator

from PIL import Image

Size = tuple[int, int]  # (width, height) in pixels

PNG_SIGNATURE = b'\x89PNG\r\n\x1a\n'
JPEG_START = b'\xff\xd8'
TIFF_STARTS = (b'II*\0', b'MM\0*', b'II+\0', b'MM\0+')
# Formats whose headers Pillow reads. Others that it knows run interpreters (EPS) or are no photographs.
PILLOW_FORMATS = ('BMP', 'GIF', 'PPM', 'JPEG2000', 'AVIF')
# What follows FF is a marker, except a stuffed 00, a restart (D0 to D7) and a fill byte (B.1.1.2, B.1.1.5).
JPEG_MARKER = re.compile(rb'\xff([^\x00\xd0-\xd7\xff])')
# Frame headers: C0 to CF without DHT, JPG and DAC (table B.1).
JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
JPEG_STANDALONE = frozenset({0x01, 0xD8})  # TEM and SOI have no length
JPEG_SCAN, JPEG_END = 0xDA, 0xD9
TIFF_WIDTH, TIFF_HEIGHT, TIFF_BITS, TIFF_EXTRA = 256, 257, 258, 338  # tags; the last is of channels beyond colours
# Start of codestream and of its sizes (Annex A.4.1, A.5.1).
JPEG2000_SIZES = b'\xff\x4f\xff\x51'
# Magic number, width, height and largest value, with comments in between (netpbm's pgm and ppm).
PPM_HEADER = re.compile(rb'P[2356](?:\s|#[^\n]*\n)+(?:\d+(?:\s|#[^\n]*\n)+){2}(\d+)\s')


def image_size(content: bytes) -> Size:
    """Read the size that a file states.

    Args:
        content: of the whole file. All checksums of a PNG are verified; a JPEG must have an end marker.

    Returns:
        (width, height) in pixels.

    Raises:
        ValueError: the format is unknown, the header damaged, the file truncated, or a checksum does not match.
    """
    try:
        if content.startswith(PNG_SIGNATURE):
            return _png_size(content)
        if content.startswith(JPEG_START):
            return jpeg_frame(content)[:2]
        if content[:4] in TIFF_STARTS:
            return _tiff_size(content)
        if content[:4] == b'RIFF' and content[8:12] == b'WEBP':
            return _webp_size(content)
    except (struct.error, IndexError) as error:
        raise ValueError('the header is truncated') from error
    return _pillow_size(content)


def bits_per_channel(content: bytes) -> int:
    """Bits per channel of a file that `image_size` accepts; 8 for formats that have no more."""
    if content.startswith(PNG_SIGNATURE):
        return content[24]
    if content[:4] in TIFF_STARTS:
        return _tiff_bits(content)
    is_jpeg2000 = content[4:8] == b'jP  ' or content.startswith(JPEG2000_SIZES)
    if is_jpeg2000 and (place := content.find(JPEG2000_SIZES)) >= 0:
        return (content[place + 42] & 0x7F) + 1  # of the first channel; bit 7: signed
    if content[4:8] == b'ftyp' and (place := content.find(b'av1C')) >= 0:
        return (8, 10, 12)[(content[place + 6] >> 6 & 1) + (content[place + 6] >> 5 & 1)]
    return largest_value(content).bit_length()


def largest_value(content: bytes) -> int:
    """Largest value that a PGM or PPM file states; 255 for other formats."""
    found = PPM_HEADER.match(content, 0, 1000)
    return int(found[1]) if found else 255


def has_tiff_alpha(content: bytes) -> bool:
    """Whether a TIFF has channels beyond its colours."""
    return any(tag == TIFF_EXTRA for tag, *_ in _tiff_entries(content)[1])


def _png_size(content: bytes) -> Size:
    view, place, kind = memoryview(content), len(PNG_SIGNATURE), b''
    if content[12:16] != b'IHDR':
        raise ValueError('the PNG does not begin with its header')
    while kind != b'IEND':
        if place + 12 > len(content):
            raise ValueError('the PNG is truncated')
        length, kind = struct.unpack_from('>I4s', content, place)
        end = place + 8 + length
        if end + 4 > len(content):
            raise ValueError(f'the PNG is truncated in its part {kind!r}')
        if zlib.crc32(view[place + 4 : end]) != struct.unpack_from('>I', content, end)[0]:
            raise ValueError(f'the checksum of the PNG part {kind!r} does not match')
        place = end + 4
    width, height = struct.unpack_from('>II', content, 16)
    return width, height


def jpeg_frame(content: bytes) -> tuple[int, int, int]:
    """Width, height and number of channels of a JPEG, which must be whole; raises ValueError otherwise."""
    place, size = 2, None
    while found := JPEG_MARKER.search(content, place):
        marker, place = found[1][0], found.end()
        if marker == JPEG_END:
            break
        if marker in JPEG_STANDALONE:
            continue
        if marker in JPEG_FRAMES:  # decoders refuse a second one
            height, width, channels = struct.unpack_from('>HHB', content, place + 3)
            size = size or (width, height, channels)
        place += struct.unpack_from('>H', content, place)[0]
        # Image data follow the header of a scan. The end marker is usually in the last bytes; if a camera has appended
        # others, the search goes through all data.
        if marker == JPEG_SCAN and content.find(b'\xff\xd9', max(place, len(content) - 64)) >= 0:
            break
    else:
        raise ValueError('the JPEG is truncated')
    if size is None:
        raise ValueError('the JPEG has no frame header')
    return size


def _tiff_size(content: bytes) -> Size:
    order, entries = _tiff_entries(content)
    sides = {}
    for tag, kind, place, _ in entries:
        if tag in (TIFF_WIDTH, TIFF_HEIGHT):
            (sides[tag],) = struct.unpack_from(f'{order}{"H" if kind == 3 else "I"}', content, place)
    if len(sides) < 2:
        raise ValueError('the TIFF states no size')
    return sides[TIFF_WIDTH], sides[TIFF_HEIGHT]


def _tiff_bits(content: bytes) -> int:
    order, entries = _tiff_entries(content)
    for tag, _, place, room in entries:
        if tag == TIFF_BITS:
            (count,) = struct.unpack_from(f'{order}{"I" if room == 4 else "Q"}', content, place - room)
            if 2 * count > room:  # of several channels, stored elsewhere
                (place,) = struct.unpack_from(f'{order}{"I" if room == 4 else "Q"}', content, place)
            bits: int = struct.unpack_from(f'{order}H', content, place)[0]
            return bits
    return 1  # the standard's default


def _tiff_entries(content: bytes) -> tuple[str, Iterator[tuple[int, int, int, int]]]:
    """Byte order, and of each entry tag, type, place of its value and room for it (4 bytes, 8 in BigTIFF)."""
    order = '<' if content[:1] == b'I' else '>'
    is_big = b'+' in content[:4]
    (place,) = struct.unpack_from(f'{order}{"Q" if is_big else "I"}', content, 8 if is_big else 4)
    (count,) = struct.unpack_from(f'{order}{"Q" if is_big else "H"}', content, place)
    start, step, offset = (place + 8, 20, 12) if is_big else (place + 2, 12, 8)
    room = 8 if is_big else 4

    def entries() -> Iterator[tuple[int, int, int, int]]:
        for entry in range(start, min(start + count * step, len(content)), step):
            tag, kind = struct.unpack_from(f'{order}HH', content, entry)
            yield tag, kind, entry + offset, room

    return order, entries()


def _webp_size(content: bytes) -> Size:
    kind = content[12:16]
    if kind == b'VP8X':  # 24 bits each, less one
        return int.from_bytes(content[24:27], 'little') + 1, int.from_bytes(content[27:30], 'little') + 1
    if kind == b'VP8L':  # 14 bits each, less one
        (bits,) = struct.unpack_from('<I', content, 21)
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    width, height = struct.unpack_from('<HH', content, 26)  # 14 bits each, and 2 of scale
    return width & 0x3FFF, height & 0x3FFF


def _pillow_size(content: bytes) -> Size:
    try:
        with Image.open(io.BytesIO(content), formats=PILLOW_FORMATS) as image:
            return image.size
    except Image.UnidentifiedImageError as error:
        raise ValueError(f'{len(content)} bytes of no known image format') from error
    # Pillow raises whatever its parsers do.
    except Exception as error:
        raise ValueError(str(error) or type(error).__name__) from error
