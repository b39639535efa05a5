"""VidEoMT-L DINOv2, YouTube-VIS 2019, 448 px: AP 68.6, AR@10 73.9 (VidEoMT model zoo, DINOv2)."""

_base_ = [
    './_base_/recipes/ytvis2019.py',
    './_base_/backbones/dinov2_large.py',
    './_base_/schedules/60k.py',
]
model = dict(backbone=_base_.backbone)
