"""Pipelines of video instance segmentation: augmentation as published, the same for all frames of a clip.

PIL resizes as detectron2 does, with which the published models were trained.
"""

_base_ = ['./loaders.py']

load_and_augment = dict(
    type='TransformBroadcaster',
    share_random_params=True,
    transforms=[
        dict(type='eomt_mm.LoadImage'),
        dict(type='eomt_mm.LoadTracks'),
        dict(
            type='RandomApply',
            prob=0.5,
            transforms=[
                dict(
                    type='RandomChoiceResize',
                    scales=[400, 500, 600],
                    resize_type='mmdet.ResizeShortestEdge',
                    max_size=1333,
                    backend='pillow',
                ),
                dict(type='eomt_mm.CropFrame', crop_size=(384, 600)),
            ],
        ),
        dict(
            type='RandomChoiceResize',
            scales=[320, 352, 392, 416, 448, 480, 512, 544, 576, 608, 640],
            resize_type='mmdet.ResizeShortestEdge',
            max_size=768,
            backend='pillow',
        ),
        dict(type='RandomFlip', prob=0.5),
    ],
)
train_pipeline = [
    dict(type='eomt_mm.ConsecutiveFrames', num_frames=5),
    load_and_augment,
    dict(type='eomt_mm.PackClip', needs_target=True),
]
coco_pipeline = [
    dict(type='eomt_mm.ConsecutiveFrames', num_frames=1),
    load_and_augment,
    dict(type='eomt_mm.RotateIntoClip', num_frames=5),
    dict(type='eomt_mm.PackClip', needs_target=True),
]


def evaluate_at(short_side):
    """The test pipeline; ground truth is loaded after resizing, so that it stays at the file's size."""
    return [
        dict(
            type='TransformBroadcaster',
            transforms=[
                dict(type='eomt_mm.LoadImage'),
                dict(type='ResizeShortestEdge', scale=short_side, max_size=1333, backend='pillow'),
                dict(type='eomt_mm.LoadTracks', with_crowds=True),
                dict(type='eomt_mm.CompressMasks'),
            ],
        ),
        dict(type='eomt_mm.PackClip'),
    ]


test_pipeline = evaluate_at(448)
test_pipeline_480 = evaluate_at(480)  # DINOv3 on YouTube-VIS
test_pipeline_544 = evaluate_at(544)  # OVIS
val_evaluator = dict(type='eomt_mm.VideoInstanceAP')
test_evaluator = val_evaluator
