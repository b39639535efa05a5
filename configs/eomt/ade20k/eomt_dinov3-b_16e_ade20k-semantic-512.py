"""EoMT-B DINOv3, ADE20K semantic, 512 px: mIoU 54.4 (LightlyTrain, its own recipe of 40k steps).

Not published by EoMT's authors; here L's recipe with 3 joint blocks.
"""
_base_ = [
    '../_base_/recipes/ade20k_semantic.py',
    '../_base_/backbones/dinov3_base.py',
    '../_base_/schedules/ade20k_16e_dinov3.py',
]
model = dict(backbone=_base_.backbone)
optim_wrapper = dict(paramwise_cfg=dict(layer_decay=1.0))
