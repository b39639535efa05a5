"""For your own data: annealing and learning rate follow from max_iters, which the leaf may change."""
train_cfg = dict(type='eomt_mm.TrainLoop', max_iters=10000, val_interval=1000)
