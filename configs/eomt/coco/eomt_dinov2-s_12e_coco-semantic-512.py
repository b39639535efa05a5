"""EoMT-S DINOv2, COCO-Stuff 164k semantic, 512 px: nobody published it.

Schedule and annealing of COCO panoptic; augmentation of ADE20K semantic, without colour jitter as for COCO panoptic.
"""
_base_ = [
    '../_base_/recipes/coco_semantic.py',
    '../_base_/backbones/dinov2_small.py',
    '../_base_/schedules/coco_12e.py',
]
model = dict(backbone=_base_.backbone)
