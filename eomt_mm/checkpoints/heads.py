"""Names of heads in our models. Imports nothing: command lines offer them before torch is imported."""

HEADS = ('panoptic_head', 'decode_head')
