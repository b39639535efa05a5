"""Subjects, the parts of EoMT that have peers: options, common input, our side, and how to compare results."""
