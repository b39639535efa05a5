"""COCO-Stuff 164k semantic: 171 classes, read from the raw label maps (0..181, 255 = void).

One folder with images/{train,val}2017 and annotations/{train,val}2017, as mmseg has it.
"""
_base_ = ['./loaders.py']
data_root = 'data/coco_stuff164k/'
img_size = 512
# Values of the 171 classes in the files; the others are used by no image.
label_ids = [i for i in range(182) if i not in (11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90)]

train_pipeline = [
    dict(type='eomt_mm.LoadImage'),
    dict(type='eomt_mm.LoadSemanticMap', label_ids=label_ids),
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
        type='COCOStuffDataset',
        data_root=data_root,
        data_prefix=dict(img_path='images/train2017', seg_map_path='annotations/train2017'),
        seg_map_suffix='.png',
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    dataset=dict(
        type='COCOStuffDataset',
        data_root=data_root,
        data_prefix=dict(img_path='images/val2017', seg_map_path='annotations/val2017'),
        seg_map_suffix='.png',
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='eomt_mm.SemanticIoU', iou_metrics=['mIoU'], label_ids=label_ids)
test_evaluator = val_evaluator
