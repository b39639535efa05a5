"""For overfitting a handful of images; annealing as published, by fractions of the schedule."""
train_cfg = dict(type='eomt_mm.TrainLoop', max_iters=400, val_interval=400)
