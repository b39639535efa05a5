"""ADE20K's segments, read from the official files of the scene parsing challenges (2016 and 2017).

``annotations/*.png`` (8-bit grey): 0 = void, 1 .. 150 = classes in ADE20K's own order. ``annotations_instance/*.png``
(RGB): R = rank (1 .. 100) of a thing class among the thing classes in that order, G = instance number, 0 = none.
Source: sceneparsing.csail.mit.edu; which classes are things: ``eomt_mm.annotations.class_tables``.
"""

from collections.abc import Collection

import numpy as np

from eomt_mm.annotations.class_tables import (
    ADE20K_NUM_CLASSES,
    ADE20K_NUM_THINGS,
    ADE20K_STUFF,
    ADE20K_THINGS_FIRST,
)
from eomt_mm.annotations.folders import FolderLayout
from eomt_mm.annotations.segments import Read, Size, check_same_size, read_local, read_map

FOLDERS = FolderLayout(
    '.jpg',
    {'seg': ('seg_map_path', '.png'), 'instances': ('instance_map_path', '.png')},
    'images, annotations: ADEChallengeData2016.zip; annotations_instance: annotations_instance.tar',
)
# Semantic labels are at most 150; an instance has the code 2**8 R + G.
CODE_BITS = 8


def read_ade20k_codes(
    label_map: str,
    instance_map: str,
    category_ids: Collection[int],
    size: Size | None = None,
    image: str | None = None,
    read: Read = read_local,
) -> np.ndarray:
    """Read the segments of an image as a map of codes (H, W), int32; things hide stuff.

    Args:
        label_map: path in ``annotations``; not read if no category is stuff.
        instance_map: path in ``annotations_instance``.
        category_ids: the categories that are needed, indices in ADE20K's order.
        size: (height, width) of the image, if known.
        image: path of the image, for messages.
        read: function that returns the content of a path, for files that are not on a local disk.

    Raises:
        FileNotFoundError: a file does not exist.
        ValueError: a file is not a PNG of the right mode, differs in size from the image, or has values of no category.
    """
    instances = read_map(instance_map, ('RGB',), 'R = rank of a thing, G = number of the instance', read)
    check_same_size(instance_map, instances.shape[:2], size, image)
    ranks, numbers = instances[..., 0].astype(np.int32), instances[..., 1]
    _check_values(instance_map, ranks, ADE20K_NUM_THINGS, 'R (the rank of a thing)')
    labels = np.zeros_like(ranks)
    if not set(ADE20K_STUFF).isdisjoint(category_ids):
        labels = read_map(label_map, ('L', 'P'), 'one channel of labels, 0 .. 150', read).astype(np.int32)
        check_same_size(label_map, labels.shape, (ranks.shape[0], ranks.shape[1]), image)
        _check_values(label_map, labels, ADE20K_NUM_CLASSES, 'the label')
    return np.where((ranks > 0) & (numbers > 0), (ranks << CODE_BITS) + numbers, labels)


def explain_ade20k(code: int) -> tuple[int | None, bool]:
    """Return the category of a code (None: void) and whether it is a crowd; ADE20K has none."""
    if code >> CODE_BITS:
        return ADE20K_THINGS_FIRST[(code >> CODE_BITS) - 1], False
    return (code - 1 if code - 1 in ADE20K_STUFF else None), False


def _check_values(path: str, values: np.ndarray, highest: int, what: str) -> None:
    if values.size and values.max() > highest:
        raise ValueError(
            f'annotation {path}: {what} is {values.max()}, above {highest}: give the official files, unconverted'
        )
