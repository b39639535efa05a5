"""Your own data, semantic; class counts follow from the leaf's metainfo. See docs/custom_data.md."""
_base_ = ['../runtime/seg.py', '../datasets/own_semantic.py', '../models/semantic.py']
model = dict(
    data_preprocessor=dict(img_size=_base_.img_size),
    backbone=dict(img_size=_base_.img_size),
)
