"""EoMT-L DINOv2, Cityscapes panoptic, 1024 px: nobody published it.

Here the schedule and colours of Cityscapes semantic, queries and scales of COCO panoptic.
"""
_base_ = [
    '../_base_/recipes/cityscapes_panoptic.py',
    '../_base_/backbones/dinov2_large.py',
    '../_base_/schedules/cityscapes_107e.py',
]
model = dict(backbone=_base_.backbone)
