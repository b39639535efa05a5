"""ADE20K panoptic and instance, read from the official files of the scene parsing challenges (2016 and 2017).

``annotations/*.png`` (8-bit grey): 0 = void, 1 .. 150 = classes in ADE20K's own order. ``annotations_instance/*.png``
(RGB): R = rank (1 .. 100) of a thing class among the thing classes in that order, G = instance number, 0 = none.
Source: sceneparsing.csail.mit.edu; which classes are things: ``eomt_mm.annotations.class_tables``.
"""

from typing import Any

import numpy as np
from mmdet.datasets.ade20k import ADE_PALETTE, ADE20KPanopticDataset

from eomt_mm.annotations.class_tables import (
    ADE20K_NUM_CLASSES,
    ADE20K_NUM_THINGS,
    ADE20K_STUFF,
    ADE20K_THINGS_FIRST,
)
from eomt_mm.datasets.folders import FolderDataset
from eomt_mm.datasets.segment_maps import LoadSegments, check_size, read_map
from eomt_mm.registry import DATASETS, TRANSFORMS

# mmdet's names, things first. mmdet's panoptic palette is in ADE20K's order; here it is reordered like the classes, as
# in mmdet's ADE20KInstanceDataset.
PANOPTIC_METAINFO: dict[str, Any] = {
    **{key: ADE20KPanopticDataset.METAINFO[key] for key in ('classes', 'thing_classes', 'stuff_classes')},
    'palette': [ADE_PALETTE[category] for category in ADE20K_THINGS_FIRST],
    'category_ids': ADE20K_THINGS_FIRST,
}
# Codes of the loading transform: semantic labels are at most 150; an instance has the code 2**8 R + G.
CODE_BITS = 8


class _ADE20K(FolderDataset):
    img_suffix = '.jpg'
    annotations = {'seg': ('seg_map_path', '.png'), 'instances': ('instance_map_path', '.png')}
    source = 'images, annotations: ADEChallengeData2016.zip; annotations_instance: annotations_instance.tar'


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
        path = results['instance_map_path']
        instances = read_map(path, ('RGB',), 'R = rank of a thing, G = number of the instance', self.backend_args)
        check_size(path, instances.shape[:2], results)
        ranks, numbers = instances[..., 0].astype(np.int32), instances[..., 1]
        _check_values(path, ranks, ADE20K_NUM_THINGS, 'R (the rank of a thing)')
        if set(ADE20K_STUFF).isdisjoint(results['category_ids']):
            labels = np.zeros_like(ranks)
        else:
            labels = self._load_labels(results, ranks.shape)
        return np.where((ranks > 0) & (numbers > 0), (ranks << CODE_BITS) + numbers, labels)

    def _load_labels(self, results: dict[str, Any], shape: tuple[int, ...]) -> np.ndarray:
        path = results['seg_map_path']
        labels = read_map(path, ('L', 'P'), 'one channel of labels, 0 .. 150', self.backend_args)
        check_size(path, labels.shape, {**results, 'ori_shape': shape})  # which is also the instance map's
        _check_values(path, labels, ADE20K_NUM_CLASSES, 'the label')
        return labels.astype(np.int32)

    def _explain(self, code: int) -> tuple[int | None, bool]:
        if code >> CODE_BITS:
            return ADE20K_THINGS_FIRST[(code >> CODE_BITS) - 1], False
        return (code - 1 if code - 1 in ADE20K_STUFF else None), False

    def __repr__(self) -> str:
        return f'{type(self).__name__}(backend_args={self.backend_args})'


def _check_values(path: str, values: np.ndarray, highest: int, what: str) -> None:
    if values.size and values.max() > highest:
        raise ValueError(
            f'annotation {path}: {what} is {values.max()}, above {highest}: give the official files, unconverted'
        )
