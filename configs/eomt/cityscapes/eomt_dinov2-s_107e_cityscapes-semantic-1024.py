"""EoMT-S DINOv2, Cityscapes semantic, 1024 px: nobody published it; L's recipe with 3 joint blocks."""
_base_ = [
    '../_base_/recipes/cityscapes_semantic.py',
    '../_base_/backbones/dinov2_small.py',
    '../_base_/schedules/cityscapes_107e.py',
]
model = dict(backbone=_base_.backbone)
