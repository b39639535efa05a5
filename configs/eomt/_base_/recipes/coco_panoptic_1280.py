_base_ = ['./coco_panoptic.py']
img_size = 1280
train_pipeline = [dict(step, img_size=img_size) if 'img_size' in step else step for step in _base_.train_pipeline]
test_pipeline = [dict(step, img_size=img_size) if 'img_size' in step else step for step in _base_.test_pipeline]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
model = dict(data_preprocessor=dict(img_size=img_size), backbone=dict(img_size=img_size))
