"""VidEoMT-L DINOv2, YouTube-VIS 2021, 448 px: AP 63.1, AR@10 68.1 (VidEoMT model zoo, DINOv2)."""

_base_ = [
    './_base_/recipes/ytvis2021.py',
    './_base_/backbones/dinov2_large.py',
    './_base_/schedules/160k.py',
]
model = dict(backbone=_base_.backbone)
