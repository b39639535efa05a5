"""ADE20K instance: 100 classes, the things of ADE20K panoptic, from the same files."""
_base_ = ['./ade20k_panoptic.py']
train_dataloader = dict(dataset=dict(type='eomt_mm.ADE20KInstance'))
val_dataloader = dict(dataset=dict(type='eomt_mm.ADE20KInstance'))
test_dataloader = val_dataloader
val_evaluator = dict(type='eomt_mm.InstanceAP')
test_evaluator = val_evaluator
