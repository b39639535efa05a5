_base_ = ['../runtime/seg.py', '../datasets/cityscapes_semantic.py', '../models/semantic.py']
model = dict(
    data_preprocessor=dict(img_size=_base_.img_size),
    backbone=dict(img_size=_base_.img_size),
    decode_head=dict(num_classes=19),
)
