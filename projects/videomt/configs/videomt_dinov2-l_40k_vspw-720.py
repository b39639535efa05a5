"""VidEoMT-L DINOv2, VSPW, 720 px: mVC16 95.0, mIoU 64.9 (VidEoMT model zoo, DINOv2)."""

_base_ = [
    './_base_/recipes/vspw.py',
    './_base_/backbones/dinov2_large.py',
    './_base_/schedules/40k.py',
]
model = dict(backbone=_base_.backbone)
