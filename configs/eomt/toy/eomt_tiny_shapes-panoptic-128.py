"""The demo: a tiny EoMT from scratch on generated shapes, 128 px, patches of 8; see make demo."""
_base_ = [
    '../_base_/recipes/shapes_panoptic.py',
    '../_base_/backbones/tiny_scratch.py',
    '../_base_/schedules/demo_250i.py',
]
model = dict(backbone=dict(_base_.backbone, patch_size=8))
auto_scale_lr = dict(base_batch_size=8)
