"""EoMT-B DINOv3, LoveDA semantic, 512 px: an example; nobody published it. 80,000 steps as mmseg trains it."""

_base_ = [
    './loveda_semantic.py',
    '../../../configs/eomt/_base_/backbones/dinov3_base.py',
    '../../../configs/eomt/_base_/schedules/own_10000i.py',
]
model = dict(backbone=_base_.backbone)
train_cfg = dict(max_iters=80000, val_interval=8000)
