"""EoMT-L DINOv3, ADE20K semantic, 512 px: mIoU 59.5 (EoMT model zoo, DINOv3). No layer decay."""
_base_ = [
    '../_base_/recipes/ade20k_semantic.py',
    '../_base_/backbones/dinov3_large.py',
    '../_base_/schedules/ade20k_16e_dinov3.py',
]
model = dict(backbone=_base_.backbone)
optim_wrapper = dict(paramwise_cfg=dict(layer_decay=1.0))
