"""ADE20K panoptic; published results start from a COCO panoptic checkpoint (load_from) without its class head."""
_base_ = ['../runtime/det.py', '../datasets/ade20k_panoptic.py', '../models/panoptic.py']
model = dict(
    data_preprocessor=dict(img_size=_base_.img_size),
    backbone=dict(img_size=_base_.img_size),
    panoptic_head=dict(num_things_classes=100, num_stuff_classes=50),
)
default_hooks = dict(checkpoint_fit=dict(class_head=False))
