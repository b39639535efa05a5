_base_ = ['../model.py', '../datasets/shapes_vis.py']
train_dataloader = dict(batch_size=2, num_workers=2)
model = dict(
    backbone=dict(img_size=96),
    # 1,024 points where masks have 28 x 56 logits at most, in place of 12,544 for 160 x 160
    panoptic_head=dict(
        task='instance', num_things_classes=4, num_queries=20, norm_auxiliary=True, criterion=dict(num_points=1024)
    ),
)
