"""Generated moving shapes as YouTube-VIS: 4 classes; `python -m videomt.datasets.generate youtube_vis` writes them."""

_base_ = ['./vis_pipelines.py']
data_root = 'data/moving_shapes/'
metainfo = dict(classes=('turtle', 'train', 'shark', 'frog'))

train_pipeline = [
    dict(type='eomt_mm.ConsecutiveFrames', num_frames=3),
    dict(
        type='TransformBroadcaster',
        share_random_params=True,
        transforms=[
            dict(type='eomt_mm.LoadImage'),
            dict(type='eomt_mm.LoadTracks'),
            dict(
                type='RandomChoiceResize',
                scales=[80, 96, 112],
                resize_type='mmdet.ResizeShortestEdge',
                max_size=224,
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
            dict(type='ResizeShortestEdge', scale=96, max_size=224, backend='pillow'),
            dict(type='eomt_mm.LoadTracks', with_crowds=True),
            dict(type='eomt_mm.CompressMasks'),
        ],
    ),
    dict(type='eomt_mm.PackClip'),
]
train_dataloader = dict(
    dataset=dict(
        type='eomt_mm.YouTubeVIS',
        data_root=data_root,
        metainfo=metainfo,
        ann_file='train.json',
        data_prefix=dict(img='train/JPEGImages'),
        filter_cfg=dict(filter_empty_gt=True),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    dataset=dict(
        type='eomt_mm.YouTubeVIS',
        data_root=data_root,
        metainfo=metainfo,
        ann_file='valid.json',
        data_prefix=dict(img='valid/JPEGImages'),
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
