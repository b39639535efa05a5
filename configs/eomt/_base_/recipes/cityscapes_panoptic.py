_base_ = ['../runtime/det.py', '../datasets/cityscapes_panoptic.py', '../models/panoptic.py']
model = dict(
    data_preprocessor=dict(img_size=_base_.img_size),
    backbone=dict(img_size=_base_.img_size),
    panoptic_head=dict(num_things_classes=8, num_stuff_classes=11),
)
