"""Names of the heads in our models. This module imports nothing: command lines read it before torch is imported."""

HEADS = ('panoptic_head', 'decode_head')
