"""EoMT-S DINOv3, ADE20K instance, 640 px: nobody published it; recipe of ADE20K panoptic, from the backbone alone."""
_base_ = [
    '../_base_/recipes/ade20k_instance.py',
    '../_base_/backbones/dinov3_small.py',
    '../_base_/schedules/ade20k_31e.py',
]
model = dict(backbone=_base_.backbone)
