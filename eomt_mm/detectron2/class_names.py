"""Classes of the public data sets in the order of our models, from detectron2's tables of names and colours."""

from typing import Any

from detectron2.data.datasets.builtin_meta import (
    ADE20K_SEM_SEG_CATEGORIES,
    CITYSCAPES_CATEGORIES,
    COCO_CATEGORIES,
)

from eomt_mm.annotations.cityscapes import STUFF
from eomt_mm.annotations.class_tables import (
    ADE20K_NUM_THINGS,
    ADE20K_THINGS_FIRST,
    CITYSCAPES_LABEL_IDS,
    CITYSCAPES_THINGS,
    COCO_STUFF_NAMES,
)

Meta = dict[str, Any]


def _coco(things_only: bool) -> Meta:
    chosen = [one for one in COCO_CATEGORIES if one['isthing'] or not things_only]
    return _with_split(
        {'classes': tuple(one['name'] for one in chosen), 'palette': [tuple(one['color']) for one in chosen]},
        0 if things_only else sum(one['isthing'] for one in chosen),
    )


def _ade20k(things_only: bool) -> Meta:
    order = ADE20K_THINGS_FIRST[:ADE20K_NUM_THINGS] if things_only else ADE20K_THINGS_FIRST
    names = tuple(ADE20K_SEM_SEG_CATEGORIES[category].strip() for category in order)
    return _with_split({'classes': names, 'category_ids': order}, 0 if things_only else ADE20K_NUM_THINGS)


def _cityscapes(names: tuple[str, ...], num_things: int) -> Meta:
    colours = {one['name']: tuple(one['color']) for one in CITYSCAPES_CATEGORIES}
    meta = {
        'classes': names,
        'palette': [colours[name] for name in names],
        'category_ids': tuple(CITYSCAPES_LABEL_IDS[name] for name in names),
    }
    return _with_split(meta, num_things)


def _with_split(meta: Meta, num_things: int) -> Meta:
    """Add thing_classes and stuff_classes if the classes are panoptic (``num_things`` above 0)."""
    if not num_things:
        return meta
    return {**meta, 'thing_classes': meta['classes'][:num_things], 'stuff_classes': meta['classes'][num_things:]}


def metainfo_of(kind: str) -> Meta:
    """Return the classes of a data set type of the mm configs; empty if the data state them.

    Args:
        kind: name of the type, such as 'CocoPanoptic'.

    Returns:
        classes and, as far as known, palette, thing_classes, stuff_classes and category_ids (number of each class in
        files), as in the ``METAINFO`` of the types. Some names of ADE20K are spelled differently there.
    """
    if kind in ('CocoPanoptic', 'CocoInstance'):
        return _coco(things_only=kind == 'CocoInstance')
    if kind in ('ADE20KPanoptic', 'ADE20KInstance'):
        return _ade20k(things_only=kind == 'ADE20KInstance')
    if kind in ('CityscapesPanoptic', 'CityscapesInstance'):
        is_panoptic = kind == 'CityscapesPanoptic'
        return _cityscapes(CITYSCAPES_THINGS + STUFF * is_panoptic, len(CITYSCAPES_THINGS) * is_panoptic)
    if kind == 'CityscapesDataset':
        return {
            key: value for key, value in _cityscapes(tuple(CITYSCAPES_LABEL_IDS), 0).items() if key != 'category_ids'
        }
    if kind == 'ADE20KDataset':
        return {'classes': tuple(name.strip() for name in ADE20K_SEM_SEG_CATEGORIES)}
    if kind == 'COCOStuffDataset':
        return {'classes': (*_coco(things_only=True)['classes'], *COCO_STUFF_NAMES)}
    return {}
