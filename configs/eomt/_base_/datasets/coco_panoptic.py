"""COCO panoptic: 80 things, 53 stuff."""
_base_ = ['./loaders.py']
data_root = 'data/coco/'
img_size = 640

train_pipeline = [
    dict(type='eomt_mm.LoadImage'),
    dict(type='eomt_mm.LoadPanopticSegments'),
    dict(type='RandomFlip', prob=0.5),
    dict(type='eomt_mm.ScaleJitterCrop', img_size=img_size, scale_range=(0.1, 2.0)),
    dict(type='eomt_mm.PackSegments'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),  # the hosts' inferencers look for this name
    dict(type='eomt_mm.ResizeToInput', img_size=img_size, fit='inside'),
    dict(type='eomt_mm.LoadPanopticSegments'),
    dict(type='eomt_mm.PackSegments'),
]
train_dataloader = dict(
    dataset=dict(
        type='eomt_mm.CocoPanoptic',
        data_root=data_root,
        ann_file='annotations/panoptic_train2017.json',
        data_prefix=dict(img='train2017/', seg='annotations/panoptic_train2017/'),
        filter_cfg=dict(filter_empty_gt=True),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    dataset=dict(
        type='eomt_mm.CocoPanoptic',
        data_root=data_root,
        ann_file='annotations/panoptic_val2017.json',
        data_prefix=dict(img='val2017/', seg='annotations/panoptic_val2017/'),
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='eomt_mm.PanopticQuality')
test_evaluator = val_evaluator
