"""EoMT-B DINOv3, COCO panoptic, 640 px: PQ 53.1 (EoMT model zoo, DINOv3)."""
_base_ = [
    '../_base_/recipes/coco_panoptic.py',
    '../_base_/backbones/dinov3_base.py',
    '../_base_/schedules/coco_24e_dinov3.py',
]
model = dict(backbone=_base_.backbone)
