"""ADE20K semantic: 150 classes; label 0 of the files is void."""
_base_ = ['./loaders.py']
data_root = 'data/ade/ADEChallengeData2016/'
img_size = 512

train_pipeline = [
    dict(type='eomt_mm.LoadImage'),
    dict(type='eomt_mm.LoadSemanticMap'),
    dict(type='eomt_mm.ColorJitter'),
    dict(type='RandomFlip', prob=0.5),
    dict(type='eomt_mm.ScaleJitterCrop', img_size=img_size, scale_range=(0.5, 2.0)),
    dict(type='mmseg.PackSegInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),  # the hosts' inferencers look for this name
    dict(type='eomt_mm.ResizeToInput', img_size=img_size, fit='cover'),
    dict(type='eomt_mm.LoadSemanticMap'),
    dict(type='mmseg.PackSegInputs'),
]
train_dataloader = dict(
    dataset=dict(
        type='ADE20KDataset',
        data_root=data_root,
        data_prefix=dict(img_path='images/training', seg_map_path='annotations/training'),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    dataset=dict(
        type='ADE20KDataset',
        data_root=data_root,
        data_prefix=dict(img_path='images/validation', seg_map_path='annotations/validation'),
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='eomt_mm.SemanticIoU', iou_metrics=['mIoU'])
test_evaluator = val_evaluator
