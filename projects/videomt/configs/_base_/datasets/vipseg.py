"""VIPSeg at 720 pixels: 124 classes, 58 of them things."""

_base_ = ['./loaders.py']
data_root = 'data/VIPSeg/VIPSeg_720P/'

train_pipeline = [
    dict(type='eomt_mm.ConsecutiveFrames', num_frames=5),
    dict(
        type='TransformBroadcaster',
        share_random_params=True,
        transforms=[
            dict(type='eomt_mm.LoadImage'),
            dict(type='eomt_mm.LoadVIPSegTracks'),
            dict(
                type='RandomChoiceResize',
                scales=[480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800],
                resize_type='mmdet.ResizeShortestEdge',
                max_size=1333,
                backend='pillow',
            ),
            dict(type='RandomFlip', prob=0.5),
        ],
    ),
    dict(type='eomt_mm.PackClip', needs_target=True),
]
test_pipeline = [
    dict(
        type='TransformBroadcaster',
        transforms=[
            dict(type='eomt_mm.LoadImage'),
            dict(type='ResizeShortestEdge', scale=720, max_size=1333, backend='pillow'),
            # After resizing: the ground truth stays at the file's size.
            dict(type='eomt_mm.LoadVIPSegTracks'),
            dict(type='eomt_mm.CompressMasks'),
        ],
    ),
    dict(type='eomt_mm.PackClip'),
]
train_dataloader = dict(
    dataset=dict(
        type='eomt_mm.VIPSeg',
        data_root=data_root,
        ann_file='panoptic_gt_VIPSeg_train.json',
        data_prefix=dict(img='images', seg='panomasksRGB'),
        filter_cfg=dict(filter_empty_gt=True),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    dataset=dict(
        type='eomt_mm.VIPSeg',
        data_root=data_root,
        ann_file='panoptic_gt_VIPSeg_val.json',
        data_prefix=dict(img='images', seg='panomasksRGB'),
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = [dict(type='eomt_mm.VideoPanopticQuality'), dict(type='eomt_mm.SegmentationTrackingQuality')]
test_evaluator = val_evaluator
