"""EoMT-S DINOv2, COCO panoptic, 640 px: PQ 44.7 (a comment in EoMT's configs)."""
_base_ = [
    '../_base_/recipes/coco_panoptic.py',
    '../_base_/backbones/dinov2_small.py',
    '../_base_/schedules/coco_12e.py',
]
model = dict(backbone=_base_.backbone)
