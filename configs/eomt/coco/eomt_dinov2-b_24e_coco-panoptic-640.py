"""EoMT-B DINOv2, COCO panoptic, 640 px: PQ 51.6 (EoMT model zoo, DINOv2)."""
_base_ = [
    '../_base_/recipes/coco_panoptic.py',
    '../_base_/backbones/dinov2_base.py',
    '../_base_/schedules/coco_24e.py',
]
model = dict(backbone=_base_.backbone)
