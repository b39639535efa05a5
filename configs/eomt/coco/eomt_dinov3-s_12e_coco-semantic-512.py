"""EoMT-S DINOv3, COCO-Stuff 164k semantic, 512 px: mIoU 45.0 (LightlyTrain, its own recipe of 88k steps).

Not published by EoMT's authors; here schedule and annealing of COCO panoptic, augmentation of ADE20K semantic
without colour jitter, as for COCO panoptic.
"""
_base_ = [
    '../_base_/recipes/coco_semantic.py',
    '../_base_/backbones/dinov3_small.py',
    '../_base_/schedules/coco_12e_dinov3.py',
]
model = dict(backbone=_base_.backbone)
