"""VidEoMT-L DINOv2, YouTube-VIS 2022, 448 px: AP 42.6, AR@10 48.1 on long videos (VidEoMT model zoo, DINOv2)."""

_base_ = [
    './_base_/recipes/ytvis2022.py',
    './_base_/backbones/dinov2_large.py',
    './_base_/schedules/160k.py',
]
model = dict(backbone=_base_.backbone)
