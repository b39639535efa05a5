"""VSPW at 480 pixels, as the 124 classes of VIPSeg."""

_base_ = ['./loaders.py']
data_root = 'data/VSPW_480p/'

train_pipeline = [
    dict(type='eomt_mm.ConsecutiveFrames', num_frames=5),
    dict(
        type='TransformBroadcaster',
        share_random_params=True,
        transforms=[
            dict(type='eomt_mm.LoadImage'),
            dict(type='eomt_mm.LoadVSPWTracks'),
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
            dict(type='eomt_mm.LoadVSPWTracks'),
            dict(type='eomt_mm.CompressMasks'),
        ],
    ),
    dict(type='eomt_mm.PackClip'),
]
train_dataloader = dict(
    dataset=dict(
        type='eomt_mm.VSPW',
        data_root=data_root,
        ann_file='train.txt',
        data_prefix=dict(img='data'),
        filter_cfg=dict(filter_empty_gt=True),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    dataset=dict(
        type='eomt_mm.VSPW',
        data_root=data_root,
        ann_file='val.txt',
        data_prefix=dict(img='data'),
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='eomt_mm.VideoConsistency')
test_evaluator = val_evaluator
