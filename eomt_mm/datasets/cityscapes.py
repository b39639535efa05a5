"""Cityscapes panoptic and instance, read from the official ``gtFine/*_gtFine_instanceIds.png``; ids for semantic maps.

instanceIds (16-bit grey): 1000 labelId + number for an instance of a thing, the bare labelId for stuff, and for groups
of things that are not told apart. Ids and which of them count: helpers/labels.py of mcordts/cityscapesScripts.
Semantic: mmseg's ``CityscapesDataset`` with ``seg_map_suffix='_gtFine_labelIds.png'`` and
``LoadSemanticMap(label_ids=LABEL_IDS)``.
"""

from typing import Any

import numpy as np
from mmseg.datasets import CityscapesDataset

from eomt_mm.datasets.folders import FolderDataset
from eomt_mm.datasets.segment_maps import LoadSegments, check_size, read_map
from eomt_mm.registry import DATASETS, TRANSFORMS

# labelIds of the 19 classes in the order of train ids, which is mmseg's; all others are void.
LABEL_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
THING_IDS = (24, 25, 26, 27, 28, 31, 32, 33)
STUFF_IDS = tuple(id_ for id_ in LABEL_IDS if id_ not in THING_IDS)
# Values from here on are instances.
INSTANCE_OFFSET = 1000
# Code of each 16-bit value: the value, but the bare labelId for stuff, which is one segment whether numbered or not.
_CODES = np.arange(1 << 16, dtype=np.int32)
for _id in STUFF_IDS:
    _CODES[INSTANCE_OFFSET * _id : INSTANCE_OFFSET * (_id + 1)] = _id


def _metainfo(label_ids: tuple[int, ...]) -> dict[str, Any]:
    """mmseg's names and colours of some labelIds."""
    index = [LABEL_IDS.index(id_) for id_ in label_ids]
    names, palette = CityscapesDataset.METAINFO['classes'], CityscapesDataset.METAINFO['palette']
    return {
        'classes': tuple(names[i] for i in index),
        'palette': [tuple(palette[i]) for i in index],
        'category_ids': label_ids,
    }


class _Cityscapes(FolderDataset):
    img_suffix = '_leftImg8bit.png'
    annotations = {'seg': ('seg_map_path', '_gtFine_instanceIds.png')}
    source = 'leftImg8bit_trainvaltest.zip, gtFine_trainvaltest.zip'


@DATASETS.register_module()
class CityscapesPanoptic(_Cityscapes):
    """8 things, then 11 stuff classes, each in the order of Cityscapes.

    ``data_prefix`` has img (leftImg8bit/train) and seg (gtFine/train); ``metainfo['category_ids']`` are labelIds. The
    rest is `FolderDataset`'s; `LoadCityscapesSegments` loads the items.
    """

    METAINFO = {
        **_metainfo(THING_IDS + STUFF_IDS),
        'thing_classes': _metainfo(THING_IDS)['classes'],
        'stuff_classes': _metainfo(STUFF_IDS)['classes'],
    }


@DATASETS.register_module()
class CityscapesInstance(_Cityscapes):
    """The 8 things of `CityscapesPanoptic`, with the same arguments."""

    METAINFO = _metainfo(THING_IDS)


@TRANSFORMS.register_module()
class LoadCityscapesSegments(LoadSegments):
    """Loads Cityscapes' segments: one per instance of a thing and one per stuff class; groups of things are crowds.

    Needs the items of `CityscapesPanoptic` or `CityscapesInstance`; adds what `store_segments` says. labelIds of no
    class are void. Groups of one class are one crowd, as in Cityscapes' own conversion to the panoptic format.

    Args:
        with_crowds: whether crowds stay, as test pipelines need them; otherwise they are void.
        backend_args: of mmengine's file backend.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is no 16-bit grey PNG or has another size than the image.
    """

    def _load_codes(self, results: dict[str, Any]) -> np.ndarray:
        path = results['seg_map_path']
        # The name of 16-bit grey in Pillow depends on its version.
        codes = read_map(path, ('I;16', 'I;16B', 'I'), '16-bit grey (*_gtFine_instanceIds.png)', self.backend_args)
        check_size(path, codes.shape, results)
        coded: np.ndarray = _CODES[codes]
        return coded

    def _explain(self, code: int) -> tuple[int | None, bool]:
        if code >= INSTANCE_OFFSET:
            return code // INSTANCE_OFFSET, False
        return code, code in THING_IDS
