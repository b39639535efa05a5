_base_ = ['../model.py', '../datasets/ytvis2022.py']
model = dict(
    backbone=dict(img_size=640),  # of the stored positions; frames come in any size
    panoptic_head=dict(task='instance', num_things_classes=40),
)
