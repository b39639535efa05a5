"""What mmengine's runner needs around the model: layer decay, learning-rate schedule, mask annealing, pictures."""
