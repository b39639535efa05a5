"""Files of unknown origin, checked before they are decoded; zip files in place; whole-or-nothing writing. No host."""

from typing import Any

from eomt_mm.public import load, names_of

PUBLIC = {
    'images': ('IMAGE_SUFFIXES', 'check_image', 'check_pixels', 'decode_image', 'encode_png'),
    'leftovers': ('remove_unfinished',),
    'pixels': ('bgr_pixels', 'checked_array', 'file_pixels', 'pil_pixels', 'to_8_bits'),
    'result_names': ('ResultNames', 'name_below'),
    'writing': ('check_apart', 'check_free', 'write_whole', 'written_aside'),
    'zip_archive': ('open_archive',),
}
__all__ = names_of(PUBLIC)


def __getattr__(name: str) -> Any:
    return load(__name__, PUBLIC, name)
