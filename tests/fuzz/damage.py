"""Damage to files: functions of a whole file's bytes and a random generator that give other bytes.

`BYTES` fit any file. The others know a format: `JSON`, `HEADERS` (the json of safetensors), `IMAGES`, `ZIPS`, and
`PICKLES` for what `torch.save` wrote.
"""

import io
import json
import math
import re
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import cache
from random import Random
from typing import Any

Damage = Callable[[bytes, Random], bytes]
MARK = 'fuzz_marker'  # a file of this name in the current folder says that something was executed


# Bytes of any file


def flip_bit(content: bytes, rng: Random) -> bytes:
    data = bytearray(content)
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(data)


def flip_bit_near_an_end(content: bytes, rng: Random) -> bytes:
    """Where formats have their headers and directories."""
    near = min(256, len(content))
    start = rng.choice([0, len(content) - near])
    return content[:start] + flip_bit(content[start : start + near], rng) + content[start + near :]


def overwrite_run(content: bytes, rng: Random) -> bytes:
    start, end = _run(content, rng)
    return content[:start] + rng.randbytes(end - start) + content[end:]


def zero_run(content: bytes, rng: Random) -> bytes:
    start, end = _run(content, rng)
    return content[:start] + bytes(end - start) + content[end:]


def remove_run(content: bytes, rng: Random) -> bytes:
    start, end = _run(content, rng)
    return content[:start] + content[end:]


def repeat_run(content: bytes, rng: Random) -> bytes:
    start, end = _run(content, rng)
    return content[:end] + content[start:]


def insert_bytes(content: bytes, rng: Random) -> bytes:
    start, _ = _run(content, rng)
    return content[:start] + rng.randbytes(rng.randint(1, 64)) + content[start:]


def truncate(content: bytes, rng: Random) -> bytes:
    return content[: rng.choice([0, rng.randrange(len(content)), len(content) - rng.randint(1, min(32, len(content)))])]


def _run(content: bytes, rng: Random) -> tuple[int, int]:
    start = rng.randrange(len(content))
    return start, min(len(content), start + rng.randint(1, 64))


# Documents

ODD_VALUES = (None, True, 'text', '', [], {}, [[]], {'a': [1]}, 7, -1, 1.5, '../../etc/passwd', '\0')
ODD_NUMBERS = (math.nan, math.inf, -math.inf, 1e308, -1e9, 1e9, 2**31, 2**63, 10**400, -1, 0, 0.5)
ODD_MASKS = (
    *([[x, 2, 9, 2, 9, 9, 2, 9]] for x in (math.nan, math.inf, 1e9, -1e9, 2**31, 1e308)),
    *([2 * [1, 2, 3, 4, 5]], [[1, 2, 3, 4]], [[]], [['1', '2', '3', '4', '5', '6']], [1, 2, 3, 4, 5, 6], 'text', 5),
    *({'size': [48, 64], 'counts': counts} for counts in ('\x7f~~~~~~~~zzzz', '', '11', 'ää', [], [-5, 3077], [9])),
    *({'size': [48, 64], 'counts': counts} for counts in ([2**32, 4], [48 * 64 + 1], ['a'], [math.nan, 1], None, {})),
    *({'size': size, 'counts': [size[0] * size[1]]} for size in ([2**31, 2**31], [-48, -64], [0, 0], [10**5, 10**5])),
    *({'size': size, 'counts': [3072]} for size in ([], [48], 'ab', None, [48.0, 64.5], [48, 64, 3])),
)
HOLE = '"@hole@"'  # stands for text that json.dumps would not write


def retype(content: bytes, rng: Random) -> bytes:
    return _replaced(content, rng, lambda old: rng.choice(ODD_VALUES))


def odd_number(content: bytes, rng: Random) -> bytes:
    return _replaced(content, rng, lambda old: rng.choice(ODD_NUMBERS), numbers=True)


def remove_entry(content: bytes, rng: Random) -> bytes:
    document = json.loads(content)
    place, key = _place(document, rng)
    del place[key]
    return json.dumps(document).encode()


def repeat_item(content: bytes, rng: Random) -> bytes:
    """An entry of a list twice, so that ids repeat."""
    document = json.loads(content)
    lists = [place[key] for place, key in _places(document) if isinstance(place[key], list) and place[key]]
    chosen = rng.choice(lists or [[0]])
    chosen.append(rng.choice(chosen))
    return json.dumps(document).encode()


def nest_deeply(content: bytes, rng: Random) -> bytes:
    depth = rng.choice([500, 100_000])
    return _with_hole(content, rng, lambda old: '[' * depth + ']' * depth)


def long_text(content: bytes, rng: Random) -> bytes:
    return _with_hole(content, rng, lambda old: '"' + 'x' * 10**7 + '"')


def long_number(content: bytes, rng: Random) -> bytes:
    return _with_hole(content, rng, lambda old: '9' * 10**5)


def repeat_key(content: bytes, rng: Random) -> bytes:
    """An object with one key twice."""
    return _with_hole(content, rng, lambda old: f'{{"id": 1, "id": {json.dumps(old)}}}')


def odd_mask(content: bytes, rng: Random) -> bytes:
    document = json.loads(content)
    masks = [(place, key) for place, key in _places(document) if key == 'segmentation']
    frames = [place[key] for place, key in _places(document) if key == 'segmentations']
    masks += [(one, index) for one in frames for index in range(len(one))]
    place, key = rng.choice(masks)
    place[key] = rng.choice(ODD_MASKS)
    return json.dumps(document).encode()


def _replaced(content: bytes, rng: Random, change: Callable[[Any], Any], numbers: bool = False) -> bytes:
    document = json.loads(content)
    place, key = _place(document, rng, numbers)
    place[key] = change(place[key])
    return json.dumps(document).encode()


def _with_hole(content: bytes, rng: Random, text: Callable[[Any], str]) -> bytes:
    document = json.loads(content)
    place, key = _place(document, rng)
    old, place[key] = place[key], HOLE.strip('"')
    return json.dumps(document).replace(HOLE, text(old)).encode()


def _place(document: Any, rng: Random, numbers: bool = False) -> tuple[Any, Any]:
    """A random entry (container, key); by a walk from the root, as most entries are deep down in masks."""
    found = [(place, key) for place, key in _places(document) if type(place[key]) in (int, float)]
    if numbers and found:
        keys = sorted({str(key) for _, key in found})
        chosen = rng.choice(keys)  # first the key: a json has a thousand times more coordinates than ids
        return rng.choice([(place, key) for place, key in found if str(key) == chosen])
    while True:
        key = rng.choice(list(document) if isinstance(document, dict) else range(len(document)))
        inner = document[key]
        if not isinstance(inner, dict | list) or not inner or rng.random() < 0.25:
            return document, key
        document = inner


def _places(document: Any) -> Iterator[tuple[Any, Any]]:
    for key in list(document) if isinstance(document, dict) else range(len(document)):
        yield document, key
        if isinstance(document[key], dict | list):
            yield from _places(document[key])


def of_header(change: Damage) -> Damage:
    """The same for the json that a safetensors file begins with."""

    def changed(content: bytes, rng: Random) -> bytes:
        size = struct.unpack('<Q', content[:8])[0]
        header = change(content[8 : 8 + size], rng)
        return struct.pack('<Q', len(header)) + header + content[8 + size :]

    changed.__name__ = f'header_{change.__name__}'
    return changed


def header_size(content: bytes, rng: Random) -> bytes:
    return struct.pack('<Q', rng.choice([0, 1, 2**31, 2**40, 2**63, 2**64 - 1])) + content[8:]


# Images

SIZES = ((30_000, 30_000), (65_500, 65_500), (1, 60_000), (60_000, 1), (0, 0), (2**31 - 1, 2**31 - 1), (9_000, 9_000))


def declare_size(content: bytes, rng: Random) -> bytes:
    """A header that states another size, with the checksum that belongs to it."""
    width, height = rng.choice(SIZES)
    if content.startswith(b'\x89PNG'):
        header = content[12:16] + struct.pack('>II', width, height) + content[24:29]
        return content[:12] + header + struct.pack('>I', zlib.crc32(header)) + content[33:]
    if content.startswith(b'\xff\xd8'):
        start = re.search(rb'\xff[\xc0\xc2]..\x08', content, re.DOTALL).end()  # type: ignore[union-attr]
        return content[:start] + struct.pack('>HH', height & 0xFFFF, width & 0xFFFF) + content[start + 4 :]
    if content.startswith(b'BM'):
        return content[:18] + struct.pack('<II', width, height) + content[26:]
    if content.startswith(b'RIFF'):
        return content[:26] + struct.pack('<HH', width & 0x3FFF, height & 0x3FFF) + content[30:]
    return _tiff_of_size(content, width, height)


def _tiff_of_size(content: bytes, width: int, height: int) -> bytes:
    data, start = bytearray(content), struct.unpack('<I', content[4:8])[0]
    for index in range(struct.unpack('<H', content[start : start + 2])[0]):
        entry = start + 2 + 12 * index
        tag = struct.unpack('<H', content[entry : entry + 2])[0]
        if tag in (256, 257):
            data[entry + 2 : entry + 12] = struct.pack('<HII', 4, 1, width if tag == 256 else height)
    return bytes(data)


def whole_but_large(content: bytes, rng: Random) -> bytes:
    """A valid PNG of 20,000 x 20,000 black pixels in a megabyte, of the kind that the file was."""
    side, (depth, colour) = 20_000, content[24:26]
    size = side * (1 + side * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour] * depth // 8)
    pixels = b'\x78\x01' + _deflated_zeros(size) + struct.pack('>HH', size % 65521, 1)  # Adler-32 of zeros
    header = struct.pack('>IIBBBBB', side, side, depth, colour, 0, 0, 0)
    palette = [(b'PLTE', bytes(768))] if colour == 3 else []
    chunks = [(b'IHDR', header), *palette, (b'IDAT', pixels), (b'IEND', b'')]
    return b'\x89PNG\r\n\x1a\n' + b''.join(
        struct.pack('>I', len(body)) + name + body + struct.pack('>I', zlib.crc32(name + body)) for name, body in chunks
    )


@cache
def _deflated_zeros(count: int) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    block = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)  # refers to nothing before it
    return block * (count >> 20) + packer.compress(bytes(count % (1 << 20))) + packer.flush()


# Zip archives

ENTRY = '<4s6H3L5H2L'  # of the directory: PKWARE's APPNOTE.TXT, 4.3.12
METHOD, CRC, PACKED, SIZE, FLAGS, OFFSET = 4, 7, 8, 9, 3, 16


def _entries(content: bytes) -> list[tuple[int, list[Any]]]:
    """Place and fields of each entry of the directory."""
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        place, count = file.start_dir, len(file.infolist())
    found = []
    for _ in range(count):
        fields = list(struct.unpack_from(ENTRY, content, place))
        found.append((place, fields))
        place += struct.calcsize(ENTRY) + sum(fields[10:13])
    return found


def _written(content: bytes, *entries: tuple[int, list[Any]]) -> bytes:
    data = bytearray(content)
    for place, fields in entries:
        struct.pack_into(ENTRY, data, place, *fields)
    return bytes(data)


def swap_members(content: bytes, rng: Random) -> bytes:
    """Two names of the directory lead to each other's content, checksums included."""
    (place, one), (other_place, other) = rng.sample(_entries(content), 2)
    for field in (METHOD, CRC, PACKED, SIZE, OFFSET):
        one[field], other[field] = other[field], one[field]
    return _written(content, (place, one), (other_place, other))


def repeat_member(content: bytes, rng: Random) -> bytes:
    """A second member under a name that is there."""
    return _with_members(content, (rng.choice(_names(content)), rng.randbytes(100)))


def change_entry(content: bytes, rng: Random) -> bytes:
    """Another method, flag, checksum, size or place of a member in the directory."""
    place, fields = rng.choice(_entries(content))
    field, values = rng.choice(
        [
            (METHOD, (1, 9, 12, 14, 93, 99)), (FLAGS, (1, 0x41, 8)), (CRC, (0, 1)), (OFFSET, (0, 7, 2**31, 2**32 - 2)),
            (SIZE, (0, 1, 100, 2**31, 2**32 - 2)), (PACKED, (0, 1, 100, 2**31, 2**32 - 2)),
        ]
    )  # fmt: skip
    fields[field] = rng.choice(values)
    return _written(content, (place, fields))


def rename_member(content: bytes, rng: Random) -> bytes:
    """Letters of a name in the directory, or of it where the content is, replaced."""
    name = rng.choice(_names(content)).encode()
    place = rng.choice([found.start() for found in re.finditer(re.escape(name), content)])
    odd = rng.choice([b'../', b'///', b'\0\0\0', b'\xff\xfe\xfd'])
    return content[:place] + odd + content[place + len(odd) :]


def add_odd_names(content: bytes, rng: Random) -> bytes:
    """Members with names that lead elsewhere, or through thousands of folders."""
    return _with_members(content, (rng.choice(['//x.jpg', '/x.jpg', '../../x.jpg', 'a/' * 9000 + 'x.jpg', '.']), b'x'))


def add_bomb(content: bytes, rng: Random) -> bytes:
    """A member that inflates to 2 GB in the place of another, and declares the size of that, or a small one."""
    entries = _entries(content)
    place, fields = rng.choice(entries)
    packed = _deflated_zeros(1 << 31)
    name = content[place + struct.calcsize(ENTRY) :][: fields[10]]
    declared = rng.choice([fields[SIZE], 100, len(content)])
    local = struct.pack('<4s5H3L2H', b'PK\3\4', 20, 0, 8, 0, 0, 1, len(packed), declared, len(name), 0) + name + packed
    fields[METHOD], fields[CRC], fields[PACKED], fields[SIZE], fields[OFFSET] = 8, 1, len(packed), declared, 0
    moved = _written(content, (place, fields))
    for other_place, other in entries:
        if other_place != place:
            other[OFFSET] += len(local)
            moved = _written(moved, (other_place, other))
    end = moved.rindex(b'PK\5\6')
    start = struct.unpack_from('<L', moved, end + 16)[0] + len(local)
    return local + moved[: end + 16] + struct.pack('<L', start) + moved[end + 20 :]


def _names(content: bytes) -> list[str]:
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        return file.namelist()


def _with_members(content: bytes, *members: tuple[str, bytes]) -> bytes:
    target = io.BytesIO(content)
    with zipfile.ZipFile(target, 'a') as file, warnings.catch_warnings():
        warnings.simplefilter('ignore')  # names that are there already
        for name, inner in members:
            file.writestr(name, inner)
    return target.getvalue()


BYTES = (
    flip_bit, flip_bit_near_an_end, overwrite_run, zero_run, remove_run, repeat_run, insert_bytes, truncate,
)  # fmt: skip
JSON = (retype, odd_number, remove_entry, repeat_item, nest_deeply, long_text, long_number, repeat_key)
HEADERS = (*(of_header(change) for change in JSON), header_size)
ZIPS = (swap_members, repeat_member, change_entry, rename_member)
ODD_ZIPS = (add_odd_names, add_bomb)
