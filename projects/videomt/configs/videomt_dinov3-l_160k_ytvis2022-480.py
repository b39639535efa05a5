"""VidEoMT-L DINOv3, YouTube-VIS 2022, 480 px: AP 42.8, AR@10 50.3 on long videos (VidEoMT model zoo, DINOv3)."""

_base_ = [
    './_base_/recipes/ytvis2022.py',
    './_base_/backbones/dinov3_large.py',
    './_base_/schedules/160k.py',
]
model = dict(backbone=_base_.backbone)
val_dataloader = dict(dataset=dict(pipeline=_base_.test_pipeline_480))
test_dataloader = val_dataloader
