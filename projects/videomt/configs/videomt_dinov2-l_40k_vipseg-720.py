"""VidEoMT-L DINOv2, VIPSeg, 720 px: VPQ 55.2, STQ 48.9 (VidEoMT model zoo, DINOv2)."""

_base_ = [
    './_base_/recipes/vipseg.py',
    './_base_/backbones/dinov2_large.py',
    './_base_/schedules/40k.py',
]
model = dict(backbone=_base_.backbone)
