"""EoMT-B EVA-02, ADE20K semantic, 512 px: an example; nobody published it. L's recipe with 3 joint blocks."""

_base_ = [
    '../../../configs/eomt/_base_/recipes/ade20k_semantic.py',
    './eva02_base.py',
    '../../../configs/eomt/_base_/schedules/ade20k_31e.py',
]
model = dict(backbone=_base_.backbone)
