"""Generated data sets for tests and demos."""

from typing import Any

from eomt_mm.public import load, names_of

PUBLIC = {
    'formats': ('COCO_CATEGORY_IDS',),
    'generate': ('write_ade20k', 'write_camvid', 'write_cityscapes', 'write_coco', 'write_coco_stuff'),
    'shapes': ('CLASSES', 'NUM_THINGS', 'SHAPES_METAINFO', 'draw_scene'),
}
__all__ = names_of(PUBLIC)


def __getattr__(name: str) -> Any:
    return load(__name__, PUBLIC, name)
