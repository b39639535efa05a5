"""EoMT-L DINOv3, Cityscapes instance, 1024 px: nobody published it.

Here the schedule and colours of Cityscapes semantic, queries and scales of COCO instance.
"""
_base_ = [
    '../_base_/recipes/cityscapes_instance.py',
    '../_base_/backbones/dinov3_large.py',
    '../_base_/schedules/cityscapes_107e.py',
]
model = dict(backbone=_base_.backbone)
