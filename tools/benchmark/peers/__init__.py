"""One module per peer: its side of each subject in which it takes part."""
