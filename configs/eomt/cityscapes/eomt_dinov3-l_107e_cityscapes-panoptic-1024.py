"""EoMT-L DINOv3, Cityscapes panoptic, 1024 px: nobody published it.

Here the schedule and colours of Cityscapes semantic, queries and scales of COCO panoptic.
"""
_base_ = [
    '../_base_/recipes/cityscapes_panoptic.py',
    '../_base_/backbones/dinov3_large.py',
    '../_base_/schedules/cityscapes_107e_dinov3.py',
]
model = dict(backbone=_base_.backbone)
