"""Your own data in COCO's instance format, small: for a first try on a CPU. Change data_root and metainfo."""

_base_ = [
    '../../../configs/eomt/_base_/recipes/own_instance_small.py',
    '../../../configs/eomt/_base_/backbones/tiny_scratch.py',
    '../../../configs/eomt/_base_/schedules/own_300i.py',
]
data_root = 'data/own/'
metainfo = dict(classes=('car', 'person'))
model = dict(backbone=_base_.backbone)
