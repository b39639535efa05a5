_base_ = ['../model.py', '../datasets/vipseg.py']
model = dict(
    backbone=dict(img_size=1280),  # of the stored positions; frames come in any size
    panoptic_head=dict(task='panoptic', num_things_classes=58, num_stuff_classes=66),
)
