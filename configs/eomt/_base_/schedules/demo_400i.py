"""A few minutes on a CPU; annealing as published, by fractions of the schedule."""
train_cfg = dict(type='IterBasedTrainLoop', max_iters=400, val_interval=200)
custom_hooks = [dict(type='eomt_mm.MaskAnnealingHook')]
