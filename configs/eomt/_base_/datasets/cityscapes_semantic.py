"""Cityscapes semantic: 19 classes, read from the official labelIds."""
_base_ = ['./loaders.py']
data_root = 'data/cityscapes/'
img_size = 1024
# Ids of road, sidewalk, ... bicycle in the files; the others are void.
label_ids = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]

train_pipeline = [
    dict(type='eomt_mm.LoadImage'),
    dict(type='eomt_mm.LoadSemanticMap', label_ids=label_ids),
    dict(type='eomt_mm.ColorJitter'),
    dict(type='RandomFlip', prob=0.5),
    dict(type='eomt_mm.ScaleJitterCrop', img_size=img_size, scale_range=(0.5, 2.0)),
    dict(type='mmseg.PackSegInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),  # the hosts' inferencers look for this name
    dict(type='eomt_mm.ResizeToInput', img_size=img_size, fit='cover'),
    dict(type='eomt_mm.LoadSemanticMap', label_ids=label_ids),
    dict(type='mmseg.PackSegInputs'),
]
train_dataloader = dict(
    dataset=dict(
        type='CityscapesDataset',
        data_root=data_root,
        data_prefix=dict(img_path='leftImg8bit/train', seg_map_path='gtFine/train'),
        seg_map_suffix='_gtFine_labelIds.png',
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    dataset=dict(
        type='CityscapesDataset',
        data_root=data_root,
        data_prefix=dict(img_path='leftImg8bit/val', seg_map_path='gtFine/val'),
        seg_map_suffix='_gtFine_labelIds.png',
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='eomt_mm.SemanticIoU', iou_metrics=['mIoU'], label_ids=label_ids)
test_evaluator = val_evaluator
