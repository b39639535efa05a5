"""The demo: a tiny VidEoMT from scratch on generated moving shapes, 96 px, patches of 8; see make demo-video."""

_base_ = [
    './_base_/recipes/shapes.py',
    './_base_/backbones/tiny_scratch.py',
    './_base_/schedules/demo_500i.py',
]
model = dict(backbone=dict(_base_.backbone, patch_size=8))
