"""ADE20K panoptic: 100 things, 50 stuff, read from the label maps and annotations_instance (its own download)."""
_base_ = ['./loaders.py']
data_root = 'data/ade/ADEChallengeData2016/'
img_size = 640

train_pipeline = [
    dict(type='eomt_mm.LoadImage'),
    dict(type='eomt_mm.LoadADE20KSegments'),
    dict(type='eomt_mm.ColorJitter'),
    dict(type='RandomFlip', prob=0.5),
    dict(type='eomt_mm.ScaleJitterCrop', img_size=img_size, scale_range=(0.1, 2.0)),
    dict(type='eomt_mm.PackSegments'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),  # the hosts' inferencers look for this name
    dict(type='eomt_mm.ResizeToInput', img_size=img_size, fit='inside'),
    dict(type='eomt_mm.LoadADE20KSegments'),
    dict(type='eomt_mm.PackSegments'),
]
train_dataloader = dict(
    dataset=dict(
        type='eomt_mm.ADE20KPanoptic',
        data_root=data_root,
        data_prefix=dict(
            img='images/training', seg='annotations/training', instances='annotations_instance/training'
        ),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    dataset=dict(
        type='eomt_mm.ADE20KPanoptic',
        data_root=data_root,
        data_prefix=dict(
            img='images/validation', seg='annotations/validation', instances='annotations_instance/validation'
        ),
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='eomt_mm.PanopticQuality')
test_evaluator = val_evaluator
