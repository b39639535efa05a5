"""A first try on your own data: a few minutes on a CPU with a small recipe."""
train_cfg = dict(type='eomt_mm.TrainLoop', max_iters=300, val_interval=100)
