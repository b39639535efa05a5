"""EoMT-B DINOv2, COCO panoptic, 640 px: PQ 50.6 (a comment in EoMT's configs)."""
_base_ = [
    '../_base_/recipes/coco_panoptic.py',
    '../_base_/backbones/dinov2_base.py',
    '../_base_/schedules/coco_12e.py',
]
model = dict(backbone=_base_.backbone)
