"""COCO-Stuff 164k; 200 queries as in LightlyTrain's runs, the only published ones."""
_base_ = ['../runtime/seg.py', '../datasets/coco_semantic.py', '../models/semantic.py']
model = dict(
    data_preprocessor=dict(img_size=_base_.img_size),
    backbone=dict(img_size=_base_.img_size),
    decode_head=dict(num_classes=171, num_queries=200),
)
