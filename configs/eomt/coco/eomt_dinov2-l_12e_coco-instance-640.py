"""EoMT-L DINOv2, COCO instance, 640 px: AP 45.2 (EoMT model zoo, DINOv2)."""
_base_ = [
    '../_base_/recipes/coco_instance.py',
    '../_base_/backbones/dinov2_large.py',
    '../_base_/schedules/coco_instance_12e.py',
]
model = dict(backbone=_base_.backbone)
