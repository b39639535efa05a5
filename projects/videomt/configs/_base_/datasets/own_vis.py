"""Your own videos in YouTube-VIS's format, instances; the leaf states data_root and metainfo.classes.

Folders: train.json, valid.json (both with annotations) and train/JPEGImages, valid/JPEGImages. Categories of the json
are found by the names in metainfo.
"""

_base_ = ['./vis_pipelines.py']
data_root = 'data/own_videos/'

train_dataloader = dict(
    dataset=dict(
        type='eomt_mm.YouTubeVIS',
        data_root=data_root,
        ann_file='train.json',
        data_prefix=dict(img='train/JPEGImages'),
        filter_cfg=dict(filter_empty_gt=True),
        pipeline=_base_.train_pipeline,
    ),
)
val_dataloader = dict(
    dataset=dict(
        type='eomt_mm.YouTubeVIS',
        data_root=data_root,
        ann_file='valid.json',
        data_prefix=dict(img='valid/JPEGImages'),
        test_mode=True,
        pipeline=_base_.test_pipeline,
    ),
)
test_dataloader = val_dataloader
