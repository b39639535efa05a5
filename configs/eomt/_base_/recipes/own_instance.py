"""Your own data, instance; class counts follow from the leaf's metainfo. See docs/custom_data.md."""
_base_ = ['../runtime/det.py', '../datasets/own_instance.py', '../models/instance.py']
model = dict(
    data_preprocessor=dict(img_size=_base_.img_size),
    backbone=dict(img_size=_base_.img_size),
)
