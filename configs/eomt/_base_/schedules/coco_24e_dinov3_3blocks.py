"""24 epochs of COCO panoptic, 3 joint blocks; DINOv3 anneals the first from the start."""
train_cfg = dict(type='IterBasedTrainLoop', max_iters=177384, val_interval=7391)
custom_hooks = [
    dict(
        type='eomt_mm.MaskAnnealingHook',
        starts=(0, 73910, 118256),
        ends=(3000, 103474, 147820),
        total_steps=177384,
    ),
]
