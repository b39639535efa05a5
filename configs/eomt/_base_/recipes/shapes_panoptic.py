_base_ = ['../runtime/det.py', '../datasets/shapes_panoptic.py', '../models/panoptic.py']
model = dict(
    data_preprocessor=dict(img_size=_base_.img_size),
    backbone=dict(img_size=_base_.img_size),
    # 1,024 points where masks have 32 x 32 logits, in place of 12,544 for 160 x 160
    panoptic_head=dict(
        num_things_classes=4, num_stuff_classes=4, num_queries=20, criterion=dict(num_points=1024)
    ),
)
