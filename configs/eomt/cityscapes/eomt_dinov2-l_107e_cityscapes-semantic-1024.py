"""EoMT-L DINOv2, Cityscapes semantic, 1024 px: mIoU 84.2 (EoMT model zoo, DINOv2)."""
_base_ = [
    '../_base_/recipes/cityscapes_semantic.py',
    '../_base_/backbones/dinov2_large.py',
    '../_base_/schedules/cityscapes_107e.py',
]
model = dict(backbone=_base_.backbone)
