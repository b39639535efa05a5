"""VidEoMT-L DINOv3, VIPSeg, 720 px: VPQ 55.1, STQ 47.1 (VidEoMT model zoo, DINOv3)."""

_base_ = [
    './_base_/recipes/vipseg.py',
    './_base_/backbones/dinov3_large.py',
    './_base_/schedules/40k.py',
]
model = dict(backbone=_base_.backbone, panoptic_head=dict(norm_queries=True))
