"""Read and check annotation files: JSON documents and the masks in them. Imports neither a host nor torch."""

from typing import Any

from eomt_mm.public import load, names_of

PUBLIC = {
    'categories': ('categories_by_name', 'choose_classes', 'crowds_text', 'images_to_train_on', 'only_crowds'),
    'documents': (
        'Category',
        'DefectiveMasks',
        'Flag',
        'Id',
        'Image',
        'Instance',
        'Mask',
        'Number',
        'check_categories',
        'check_file_names',
        'check_size',
        'flag_problem',
        'local_name',
        'parse',
        'read_instances',
        'read_panoptic',
        'unknown_id',
    ),
    'label_values': ('label_table', 'labels_of'),
    'masks': ('RLE', 'areas', 'as_text', 'check_runs', 'decode', 'examine', 'is_blank', 'normalise'),
    'segments': ('MapSegment', 'read_map'),
    'panoptic_codes': ('check_num_classes',),
    'panoptic_png': ('check_present', 'read_panoptic_png', 'run_starts', 'write_panoptic_png'),
}
__all__ = names_of(PUBLIC)


def __getattr__(name: str) -> Any:
    return load(__name__, PUBLIC, name)
