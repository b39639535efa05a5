"""EoMT's small ViT from scratch and its optimisation, for trying things out."""

_base_ = ['../../../../../configs/eomt/_base_/backbones/tiny_scratch.py']
auto_scale_lr = dict(base_batch_size=2)
