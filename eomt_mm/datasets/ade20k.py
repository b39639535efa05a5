"""ADE20K panoptic and instance, read from the official files; their format: ``eomt_mm.annotations.ade20k``."""

from typing import Any

import numpy as np
from mmdet.datasets.ade20k import ADE_PALETTE, ADE20KPanopticDataset

from eomt_mm.annotations.ade20k import FOLDERS, explain_ade20k, read_ade20k_codes
from eomt_mm.annotations.class_tables import ADE20K_NUM_THINGS, ADE20K_THINGS_FIRST
from eomt_mm.datasets.folders import FolderDataset
from eomt_mm.datasets.segment_maps import LoadSegments, image_size
from eomt_mm.registry import DATASETS, TRANSFORMS

# mmdet's names, things first. mmdet's panoptic palette is in ADE20K's order; here it is reordered like the classes, as
# in mmdet's ADE20KInstanceDataset.
PANOPTIC_METAINFO: dict[str, Any] = {
    **{key: ADE20KPanopticDataset.METAINFO[key] for key in ('classes', 'thing_classes', 'stuff_classes')},
    'palette': [ADE_PALETTE[category] for category in ADE20K_THINGS_FIRST],
    'category_ids': ADE20K_THINGS_FIRST,
}


class _ADE20K(FolderDataset):
    img_suffix, annotations, source = FOLDERS.img_suffix, FOLDERS.annotations, FOLDERS.source


@DATASETS.register_module()
class ADE20KPanoptic(_ADE20K):
    """ADE20K panoptic: 100 things, then 50 stuff classes, ordered and named as in mmdet's ``ADE20KPanopticDataset``.

    ``data_prefix`` has img (images/training), seg (annotations/training) and instances
    (annotations_instance/training); ``metainfo['category_ids']`` are indices 0 .. 149 in ADE20K's own order. For all
    else, see `FolderDataset`. `LoadADE20KSegments` loads the annotations.
    """

    METAINFO = PANOPTIC_METAINFO


@DATASETS.register_module()
class ADE20KInstance(_ADE20K):
    """ADE20K instance: the 100 things of `ADE20KPanoptic`, with the same names, order and arguments.

    mmdet's ``ADE20KInstanceDataset`` has the same classes in the same order under shorter names ('windowpane' for
    'window', 'painting' for 'painting, picture').
    """

    METAINFO = {key: PANOPTIC_METAINFO[key][:ADE20K_NUM_THINGS] for key in ('classes', 'palette', 'category_ids')}


@TRANSFORMS.register_module()
class LoadADE20KSegments(LoadSegments):
    """Load ADE20K's segments: one per thing instance and one per stuff class; things hide stuff.

    Needs the items of `ADE20KPanoptic` or `ADE20KInstance`. Adds the keys of `store_segments`, always with crowd labels
    (empty, since ADE20K has no crowds). Label 0, things without an instance number, and categories that are not among
    the classes are void. If no class is stuff, ``seg_map_path`` is not read.

    Args:
        backend_args: arguments of mmengine's file backend.

    Raises:
        FileNotFoundError: a file does not exist.
        ValueError: a file is not a PNG of the right mode, differs in size from the image, or has values of no category.
    """

    def __init__(self, backend_args: dict | None = None) -> None:
        super().__init__(with_crowds=True, backend_args=backend_args)

    def _load_codes(self, results: dict[str, Any]) -> np.ndarray:
        paths = results['seg_map_path'], results['instance_map_path']
        return read_ade20k_codes(
            *paths, results['category_ids'], image_size(results), results.get('img_path'), self._read
        )

    def _explain(self, code: int) -> tuple[int | None, bool]:
        return explain_ade20k(code)

    def __repr__(self) -> str:
        return f'{type(self).__name__}(backend_args={self.backend_args})'
