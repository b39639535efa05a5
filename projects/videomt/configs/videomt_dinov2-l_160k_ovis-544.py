"""VidEoMT-L DINOv2, OVIS, 544 px: AP 52.5, AR@10 57.5 (VidEoMT model zoo, DINOv2)."""

_base_ = [
    './_base_/recipes/ovis.py',
    './_base_/backbones/dinov2_large.py',
    './_base_/schedules/160k.py',
]
model = dict(backbone=_base_.backbone)
