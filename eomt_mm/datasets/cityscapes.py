"""Cityscapes panoptic and instance, read from the official ``gtFine/*_gtFine_instanceIds.png``.

The format of the files: ``eomt_mm.annotations.cityscapes``.
For semantic segmentation use mmseg's ``CityscapesDataset`` with ``seg_map_suffix='_gtFine_labelIds.png'`` and
``LoadSemanticMap(label_ids=(*CITYSCAPES_LABEL_IDS.values(),))``.
"""

from typing import Any

import numpy as np
from mmseg.datasets import CityscapesDataset

from eomt_mm.annotations.cityscapes import FOLDERS, STUFF, explain_cityscapes, read_cityscapes_codes
from eomt_mm.annotations.class_tables import CITYSCAPES_LABEL_IDS, CITYSCAPES_THINGS
from eomt_mm.datasets.folders import FolderDataset
from eomt_mm.datasets.segment_maps import LoadSegments, image_size
from eomt_mm.registry import DATASETS, TRANSFORMS


def _metainfo(names: tuple[str, ...]) -> dict[str, Any]:
    """Build ``METAINFO`` for the named classes, with mmseg's colours."""
    palette = dict(zip(CITYSCAPES_LABEL_IDS, CityscapesDataset.METAINFO['palette'], strict=True))
    return {
        'classes': names,
        'palette': [tuple(palette[name]) for name in names],
        'category_ids': tuple(CITYSCAPES_LABEL_IDS[name] for name in names),
    }


class _Cityscapes(FolderDataset):
    img_suffix, annotations, source = FOLDERS.img_suffix, FOLDERS.annotations, FOLDERS.source


@DATASETS.register_module()
class CityscapesPanoptic(_Cityscapes):
    """Cityscapes panoptic: 8 things, then 11 stuff classes, each in the order of Cityscapes.

    ``data_prefix`` has img (leftImg8bit/train) and seg (gtFine/train); ``metainfo['category_ids']`` are labelIds. For
    all else, see `FolderDataset`. `LoadCityscapesSegments` loads the annotations.
    """

    METAINFO = {
        **_metainfo(CITYSCAPES_THINGS + STUFF),
        'thing_classes': CITYSCAPES_THINGS,
        'stuff_classes': STUFF,
    }


@DATASETS.register_module()
class CityscapesInstance(_Cityscapes):
    """Cityscapes instance: the 8 things of `CityscapesPanoptic`, with the same arguments."""

    METAINFO = _metainfo(CITYSCAPES_THINGS)


@TRANSFORMS.register_module()
class LoadCityscapesSegments(LoadSegments):
    """Load Cityscapes' segments: one per thing instance and one per stuff class; groups of things are crowds.

    Needs the items of `CityscapesPanoptic` or `CityscapesInstance`. Adds the keys of `store_segments`. labelIds that
    are not among the classes are void. All groups of a class are one crowd, as in Cityscapes' own conversion to the
    panoptic format.

    Args:
        with_crowds: keep crowds, as test pipelines need them; otherwise they are void.
        backend_args: arguments of mmengine's file backend.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is not a 16-bit grey PNG, or differs in size from the image.
    """

    def _load_codes(self, results: dict[str, Any]) -> np.ndarray:
        return read_cityscapes_codes(results['seg_map_path'], image_size(results), results.get('img_path'), self._read)

    def _explain(self, code: int) -> tuple[int | None, bool]:
        return explain_cityscapes(code)
