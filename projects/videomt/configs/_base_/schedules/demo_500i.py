"""A few minutes on a CPU."""

train_cfg = dict(type='eomt_mm.TrainLoop', max_iters=500, val_interval=250)
