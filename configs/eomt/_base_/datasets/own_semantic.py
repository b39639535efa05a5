"""One's own images and label maps (class k has value k, 255 = void); the leaf states data_root and metainfo (classes).

Without other names in the leaf: images/{train,val}/*.jpg and, of the same names, labels/{train,val}/*.png. Other values
in the files: label_ids of LoadSemanticMap. Other endings: img_suffix, seg_map_suffix.
"""
_base_ = ['./loaders.py']
data_root = 'data/own/'
img_size = 512

train_pipeline = [
    dict(type='eomt_mm.LoadImage'),
    dict(type='eomt_mm.LoadSemanticMap'),
    dict(type='eomt_mm.ColorJitter'),
    dict(type='RandomFlip', prob=0.5),
    dict(type='eomt_mm.ScaleJitterCrop', img_size=img_size, scale_range=(0.5, 2.0)),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),  # the hosts' inferencers look for this name
    dict(type='eomt_mm.ResizeToInput', img_size=img_size, fit='cover'),
    dict(type='eomt_mm.LoadSemanticMap'),
    dict(type='PackSegInputs'),
]
train_dataloader = dict(
    dataset=dict(
        type='BaseSegDataset',
        data_root=data_root,
        data_prefix=dict(img_path='images/train', seg_map_path='labels/train'),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    dataset=dict(
        type='BaseSegDataset',
        data_root=data_root,
        data_prefix=dict(img_path='images/val', seg_map_path='labels/val'),
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
test_evaluator = val_evaluator
