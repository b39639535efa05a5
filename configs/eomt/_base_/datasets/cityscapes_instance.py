"""Cityscapes instance: 8 classes, read from the official instanceIds."""
_base_ = ['./loaders.py']
data_root = 'data/cityscapes/'
img_size = 1024

train_pipeline = [
    dict(type='eomt_mm.LoadImage'),
    dict(type='eomt_mm.LoadCityscapesSegments'),
    dict(type='eomt_mm.ColorJitter'),
    dict(type='RandomFlip', prob=0.5),
    dict(type='eomt_mm.ScaleJitterCrop', img_size=img_size, scale_range=(0.1, 2.0)),
    dict(type='eomt_mm.PackSegments'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),  # the hosts' inferencers look for this name
    dict(type='eomt_mm.ResizeToInput', img_size=img_size, fit='inside'),
    dict(type='eomt_mm.LoadCityscapesSegments', with_crowds=True),
    dict(type='eomt_mm.PackSegments'),
]
train_dataloader = dict(
    dataset=dict(
        type='eomt_mm.CityscapesInstance',
        data_root=data_root,
        data_prefix=dict(img='leftImg8bit/train', seg='gtFine/train'),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    dataset=dict(
        type='eomt_mm.CityscapesInstance',
        data_root=data_root,
        data_prefix=dict(img='leftImg8bit/val', seg='gtFine/val'),
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = [
    dict(type='eomt_mm.CityscapesAP'),
    dict(type='eomt_mm.InstanceAP'),
]
test_evaluator = val_evaluator
