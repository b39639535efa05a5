"""60,000 steps; evaluated at the end."""

train_cfg = dict(type='eomt_mm.TrainLoop', max_iters=60000, val_interval=60000)
