"""EoMT-L DINOv2, COCO panoptic, 1280 px: PQ 58.3 (EoMT model zoo, DINOv2)."""
_base_ = [
    '../_base_/recipes/coco_panoptic_1280.py',
    '../_base_/backbones/dinov2_large.py',
    '../_base_/schedules/coco_12e.py',
]
model = dict(backbone=_base_.backbone)
