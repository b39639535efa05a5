"""Your own data in COCO's panoptic format, small: for a first try on a CPU. Change data_root and metainfo."""

_base_ = [
    '../../../configs/eomt/_base_/recipes/own_panoptic_small.py',
    '../../../configs/eomt/_base_/backbones/tiny_scratch.py',
    '../../../configs/eomt/_base_/schedules/own_300i.py',
]
data_root = 'data/own/'
metainfo = dict(thing_classes=('car', 'person'), stuff_classes=('road', 'sky'))
model = dict(backbone=_base_.backbone)
