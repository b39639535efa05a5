"""For overfitting a handful of images; annealing as published, by fractions of the schedule."""
train_cfg = dict(type='IterBasedTrainLoop', max_iters=400, val_interval=400)
custom_hooks = [dict(type='eomt_mm.MaskAnnealingHook')]
