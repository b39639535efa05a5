"""Cityscapes' segments, read from the official ``gtFine/*_gtFine_instanceIds.png``.

instanceIds (16-bit grey): 1000 labelId + number for a thing instance, the bare labelId for stuff and for groups of
things that are not separated. The ids and which of them are evaluated: ``eomt_mm.annotations.class_tables``.
"""

import numpy as np

from eomt_mm.annotations.class_tables import CITYSCAPES_LABEL_IDS, CITYSCAPES_THINGS
from eomt_mm.annotations.folders import FolderLayout
from eomt_mm.annotations.segments import Read, Size, check_same_size, read_local, read_map

FOLDERS = FolderLayout(
    '_leftImg8bit.png',
    {'seg': ('seg_map_path', '_gtFine_instanceIds.png')},
    'leftImg8bit_trainvaltest.zip, gtFine_trainvaltest.zip',
)
STUFF = tuple(name for name in CITYSCAPES_LABEL_IDS if name not in CITYSCAPES_THINGS)
THING_IDS = frozenset(CITYSCAPES_LABEL_IDS[name] for name in CITYSCAPES_THINGS)
# Values from here on are instances.
INSTANCE_OFFSET = 1000
# Code of each 16-bit value: the value itself; for stuff the bare labelId, as stuff is one segment even if numbered.
_CODES = np.arange(1 << 16, dtype=np.int32)
for _id in (CITYSCAPES_LABEL_IDS[name] for name in STUFF):
    _CODES[INSTANCE_OFFSET * _id : INSTANCE_OFFSET * (_id + 1)] = _id


def read_instance_ids(
    path: str, size: Size | None = None, image: str | None = None, read: Read = read_local
) -> np.ndarray:
    """Read instanceIds (H, W), integers in [0, 65535].

    Args:
        path: of the file.
        size: (height, width) of the image, if known.
        image: path of the image, for messages.
        read: function that returns the content of a path, for files that are not on a local disk.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is not a 16-bit grey PNG, or differs in size from the image.
    """
    # Pillow's name for 16-bit grey depends on its version.
    values = read_map(path, ('I;16', 'I;16B', 'I'), '16-bit grey (*_gtFine_instanceIds.png)', read)
    check_same_size(path, values.shape, size, image)
    return values


def read_cityscapes_codes(
    path: str, size: Size | None = None, image: str | None = None, read: Read = read_local
) -> np.ndarray:
    """Read the segments of an image as a map of codes (H, W), int32; see `read_instance_ids`."""
    codes: np.ndarray = _CODES[read_instance_ids(path, size, image, read)]
    return codes


def explain_cityscapes(code: int) -> tuple[int | None, bool]:
    """Return the category of a code, a labelId, and whether it is a crowd: all groups of a class are one crowd."""
    if code >= INSTANCE_OFFSET:
        return code // INSTANCE_OFFSET, False
    return code, code in THING_IDS
