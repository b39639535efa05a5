"""YouTube-VIS 2021: 40 classes; training clips mixed 1 : 1 with pseudo-clips of COCO.

The public validation json has no annotations: `VideoInstanceAP` with format_only and out_dir writes what the server
takes; for numbers of your own, hold out training videos.
"""

_base_ = ['./vis_pipelines.py']
data_root = 'data/ytvis_2021/'

train_dataloader = dict(
    dataset=dict(
        type='eomt_mm.MixedClips',
        datasets=[
            dict(
                type='eomt_mm.YouTubeVIS2021',
                data_root=data_root,
                ann_file='train.json',
                data_prefix=dict(img='train/JPEGImages'),
                filter_cfg=dict(filter_empty_gt=True),
                pipeline=_base_.train_pipeline,
            ),
            dict(
                type='eomt_mm.CocoClips',
                target='ytvis2021',
                data_root='data/coco/',
                ann_file='annotations/instances_train2017.json',
                data_prefix=dict(img='train2017'),
                pipeline=_base_.coco_pipeline,
            ),
        ],
    ),
)
val_dataloader = dict(
    dataset=dict(
        type='eomt_mm.YouTubeVIS2021',
        data_root=data_root,
        ann_file='valid.json',
        data_prefix=dict(img='valid/JPEGImages'),
        test_mode=True,
        pipeline=_base_.test_pipeline,
    ),
)
test_dataloader = val_dataloader
