"""VidEoMT-B DINOv2, YouTube-VIS 2019, 448 px: AP 58.2, AR@10 66.5 (VidEoMT model zoo, DINOv2)."""

_base_ = [
    './_base_/recipes/ytvis2019.py',
    './_base_/backbones/dinov2_base.py',
    './_base_/schedules/40k.py',
]
model = dict(backbone=_base_.backbone)
