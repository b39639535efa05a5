"""One module per peer: a call for each subject in which it takes part."""
