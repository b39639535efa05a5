"""EoMT-L DINOv3, Cityscapes semantic, 1024 px: nobody published it; DINOv2's schedule with DINOv3's optimisation."""
_base_ = [
    '../_base_/recipes/cityscapes_semantic.py',
    '../_base_/backbones/dinov3_large.py',
    '../_base_/schedules/cityscapes_107e_dinov3.py',
]
model = dict(backbone=_base_.backbone)
