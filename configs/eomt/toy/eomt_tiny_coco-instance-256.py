"""A tiny EoMT from scratch at 256 px on COCO instance: to check that data and code work, not for results."""
_base_ = [
    '../_base_/recipes/coco_instance.py',
    '../_base_/backbones/tiny_scratch.py',
    '../_base_/schedules/overfit_400i.py',
]
img_size = 256
train_dataloader = dict(num_workers=2)
model = dict(backbone=_base_.backbone)
