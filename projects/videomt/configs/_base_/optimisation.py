"""Optimisation of all published models: layer decay 0.6, warm-up 500 + 1000, rate 1e-4 for 8 clips; mixed precision.

The published training configures clipping at 0.01 but never applies it. EoMT's: clip_grad=dict(max_norm=0.01).
"""

_base_ = ['../../../../configs/eomt/_base_/backbones/dinov2.py']
optim_wrapper = dict(clip_grad=None, paramwise_cfg=dict(layer_decay=0.6))
auto_scale_lr = dict(base_batch_size=8)  # clips per step that the learning rate is for
