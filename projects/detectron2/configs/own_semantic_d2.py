"""Your own images and label maps, small: for a first try on a CPU. Change data_root and metainfo."""

_base_ = [
    '../../../configs/eomt/_base_/recipes/own_semantic_small.py',
    '../../../configs/eomt/_base_/backbones/tiny_scratch.py',
    '../../../configs/eomt/_base_/schedules/own_300i.py',
]
data_root = 'data/own/'
metainfo = dict(classes=('road', 'car', 'sky'))
model = dict(backbone=_base_.backbone)
