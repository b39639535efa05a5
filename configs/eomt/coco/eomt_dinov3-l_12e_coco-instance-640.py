"""EoMT-L DINOv3, COCO instance, 640 px: AP 45.9 (EoMT model zoo, DINOv3)."""
_base_ = [
    '../_base_/recipes/coco_instance.py',
    '../_base_/backbones/dinov3_large.py',
    '../_base_/schedules/coco_instance_12e.py',
]
model = dict(backbone=_base_.backbone)
