"""COCO instance: 80 classes."""
_base_ = ['./loaders.py']
data_root = 'data/coco/'
img_size = 640

train_pipeline = [
    dict(type='eomt_mm.LoadImage'),
    dict(type='eomt_mm.LoadInstances'),
    dict(type='RandomFlip', prob=0.5),
    dict(type='eomt_mm.ScaleJitterCrop', img_size=img_size, scale_range=(0.1, 2.0)),
    dict(type='mmdet.PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),  # the hosts' inferencers look for this name
    dict(type='eomt_mm.ResizeToInput', img_size=img_size, fit='inside'),
    dict(type='eomt_mm.LoadInstances'),
    dict(type='mmdet.PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]
train_dataloader = dict(
    dataset=dict(
        type='eomt_mm.CocoInstance',
        data_root=data_root,
        ann_file='annotations/instances_train2017.json',
        data_prefix=dict(img='train2017/'),
        filter_cfg=dict(filter_empty_gt=True),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    # test_mode keeps images without annotation: their false positives count.
    dataset=dict(
        type='eomt_mm.CocoInstance',
        data_root=data_root,
        ann_file='annotations/instances_val2017.json',
        data_prefix=dict(img='val2017/'),
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='eomt_mm.InstanceAP')
test_evaluator = val_evaluator
