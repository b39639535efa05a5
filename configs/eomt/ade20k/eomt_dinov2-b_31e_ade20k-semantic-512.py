"""EoMT-B DINOv2, ADE20K semantic, 512 px: nobody published it; L's recipe with 3 joint blocks."""
_base_ = [
    '../_base_/recipes/ade20k_semantic.py',
    '../_base_/backbones/dinov2_base.py',
    '../_base_/schedules/ade20k_31e.py',
]
model = dict(backbone=_base_.backbone)
