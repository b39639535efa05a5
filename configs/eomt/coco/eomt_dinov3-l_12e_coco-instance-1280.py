"""EoMT-L DINOv3, COCO instance, 1280 px: AP 49.9 (EoMT model zoo, DINOv3)."""
_base_ = [
    '../_base_/recipes/coco_instance_1280.py',
    '../_base_/backbones/dinov3_large.py',
    '../_base_/schedules/coco_instance_12e.py',
]
model = dict(backbone=_base_.backbone)
