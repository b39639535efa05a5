"""What files of weights hold, and whether it fits a model."""
