"""12 epochs of COCO panoptic, 4 joint blocks; DINOv3 anneals the first from the start."""
train_cfg = dict(type='IterBasedTrainLoop', max_iters=88692, val_interval=7391)
custom_hooks = [
    dict(
        type='eomt_mm.MaskAnnealingHook',
        starts=(0, 29564, 44346, 59128),
        ends=(3000, 44346, 59128, 73910),
        total_steps=88692,
    ),
]
