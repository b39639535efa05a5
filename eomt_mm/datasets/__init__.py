"""Loading, transforms, data sets the hosts lack, and small generated data sets for tests and the demo."""
