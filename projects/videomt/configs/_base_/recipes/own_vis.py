"""Your own videos, instances; the number of classes follows from the leaf's metainfo."""

_base_ = ['../model.py', '../datasets/own_vis.py']
model = dict(
    backbone=dict(img_size=640),  # of the stored positions; frames come in any size
    panoptic_head=dict(task='instance'),
)
