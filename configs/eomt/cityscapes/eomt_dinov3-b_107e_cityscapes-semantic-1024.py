"""EoMT-B DINOv3, Cityscapes semantic, 1024 px: mIoU 81.0 (LightlyTrain, its own recipe of 20k steps).

Not published by EoMT's authors; here DINOv2's schedule with DINOv3's optimisation. LightlyTrain uses 200 queries, here
100, as for DINOv2.
"""
_base_ = [
    '../_base_/recipes/cityscapes_semantic.py',
    '../_base_/backbones/dinov3_base.py',
    '../_base_/schedules/cityscapes_107e_dinov3.py',
]
model = dict(backbone=_base_.backbone)
