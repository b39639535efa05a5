"""Cityscapes instance: 8 classes, the things of Cityscapes panoptic, from the same files; AP by Cityscapes and COCO."""
_base_ = ['./cityscapes_panoptic.py']
train_dataloader = dict(dataset=dict(type='eomt_mm.CityscapesInstance'))
val_dataloader = dict(dataset=dict(type='eomt_mm.CityscapesInstance'))
test_dataloader = val_dataloader
val_evaluator = [
    dict(type='eomt_mm.CityscapesAP'),
    dict(type='eomt_mm.InstanceAP'),
]
test_evaluator = val_evaluator
