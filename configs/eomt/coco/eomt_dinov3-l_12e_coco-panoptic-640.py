"""EoMT-L DINOv3, COCO panoptic, 640 px: PQ 56.8 (EoMT model zoo, DINOv3)."""
_base_ = [
    '../_base_/recipes/coco_panoptic.py',
    '../_base_/backbones/dinov3_large.py',
    '../_base_/schedules/coco_12e_dinov3.py',
]
model = dict(backbone=_base_.backbone)
