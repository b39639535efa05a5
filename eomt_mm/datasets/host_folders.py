"""Check the folders of mmseg's own data sets, which look for one exact suffix and leave out other files silently."""

from typing import Any

from mmseg.datasets import BaseSegDataset

from eomt_mm.datasets.file_listing import can_list, check_files, list_files, warn
from eomt_mm.datasets.label_maps import LabelMaps
from eomt_mm.fileio.images import IMAGE_SUFFIXES
from eomt_mm.fileio.listing import rest_text, sorted_files


def check_host_folders(dataset: Any) -> None:
    """Warn about images that a data set of mmseg (`ADE20KDataset` and others) leaves out, and check that files exist.

    Label maps are checked in training only: test sets may have none.

    Args:
        dataset: any; data sets of other classes, those of ours and data sets with a list of files are skipped.

    Raises:
        FileNotFoundError: an image or a label map is missing.
    """
    if not isinstance(dataset, BaseSegDataset) or isinstance(dataset, LabelMaps):
        return
    dataset.full_init()
    items = [dataset.get_data_info(index) for index in range(len(dataset))]
    folder, source = dataset.data_prefix.get('img_path', ''), dataset.ann_file or type(dataset).__name__
    for key, what in (('img_path', 'images'), ('seg_map_path', 'label maps')):
        if key == 'img_path' or not dataset.test_mode:
            check_files(items, key, what, source, dataset.backend_args)
    if dataset.ann_file or dataset._indices is not None or not can_list(folder, dataset.backend_args):
        return
    listed = sorted_files(folder, list_files(dataset.backend_args), dataset.data_prefix.get('seg_map_path'))
    rest = [n for n in listed if not n.endswith(dataset.img_suffix) and n.lower().endswith(IMAGE_SUFFIXES)]
    why = f"which do not end with img_suffix='{dataset.img_suffix}'"
    warn(rest_text(type(dataset).__name__, len(items), [(folder, rest, why)]))
