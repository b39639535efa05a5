"""EoMT-L DINOv2, COCO instance, 1280 px: AP 48.8 (EoMT model zoo, DINOv2)."""
_base_ = [
    '../_base_/recipes/coco_instance_1280.py',
    '../_base_/backbones/dinov2_large.py',
    '../_base_/schedules/coco_instance_12e.py',
]
model = dict(backbone=_base_.backbone)
