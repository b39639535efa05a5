"""Read, import, check and export checkpoints: official EoMT, Hugging Face, Meta, timm and our own."""

from typing import Any

from eomt_mm.public import load, names_of

PUBLIC = {
    'class_names': ('check_names',),
    'delta': ('Weights',),
    'describe': ('describe',),
    'exporting': ('PIXELS', 'export_huggingface', 'export_official', 'huggingface_model', 'write_folder'),
    'files': ('Checkpoint', 'State', 'read_checkpoint', 'weights_file'),
    'formats': ('EOMT', 'Format', 'Readable'),
    'huggingface': ('dinov2_rules', 'dinov3_rules'),
    'importing': ('ClassHead', 'ImportReport', 'import_checkpoint'),
    'official': ('dinov2_rules', 'dinov3_rules'),
    'rules': ('Rule', 'copy', 'map_to_theirs'),
}
__all__ = names_of(PUBLIC)


def __getattr__(name: str) -> Any:
    return load(__name__, PUBLIC, name)
