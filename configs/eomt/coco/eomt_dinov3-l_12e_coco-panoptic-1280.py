"""EoMT-L DINOv3, COCO panoptic, 1280 px: PQ 58.9 (EoMT model zoo, DINOv3)."""
_base_ = [
    '../_base_/recipes/coco_panoptic_1280.py',
    '../_base_/backbones/dinov3_large.py',
    '../_base_/schedules/coco_12e_dinov3.py',
]
model = dict(backbone=_base_.backbone)
