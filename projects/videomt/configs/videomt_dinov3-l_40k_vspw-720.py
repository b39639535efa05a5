"""VidEoMT-L DINOv3, VSPW, 720 px: mVC16 94.4, mIoU 64.0 (VidEoMT model zoo, DINOv3)."""

_base_ = [
    './_base_/recipes/vspw.py',
    './_base_/backbones/dinov3_large.py',
    './_base_/schedules/40k.py',
]
model = dict(backbone=_base_.backbone, panoptic_head=dict(norm_queries=True))
