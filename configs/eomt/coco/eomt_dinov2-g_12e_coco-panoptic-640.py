"""EoMT-g DINOv2, COCO panoptic, 640 px: PQ 57.0 (EoMT model zoo, DINOv2)."""
_base_ = [
    '../_base_/recipes/coco_panoptic.py',
    '../_base_/backbones/dinov2_giant.py',
    '../_base_/schedules/coco_12e.py',
]
model = dict(backbone=_base_.backbone)
