"""EoMT-L DINOv2, ADE20K semantic, 512 px: mIoU 58.4 (EoMT model zoo, DINOv2)."""
_base_ = [
    '../_base_/recipes/ade20k_semantic.py',
    '../_base_/backbones/dinov2_large.py',
    '../_base_/schedules/ade20k_31e.py',
]
model = dict(backbone=_base_.backbone)
