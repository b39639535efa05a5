"""Semantic data set for your own files: a folder of images and a folder of label maps, checked at build time."""

import os.path as osp
from typing import Any

from mmseg.datasets import BaseSegDataset

from eomt_mm.annotations.label_folders import KINDS, LabelFolders, LabelPair
from eomt_mm.datasets.file_listing import check_prefix, list_files, read_list, warn
from eomt_mm.registry import DATASETS


@DATASETS.register_module()
class LabelMaps(BaseSegDataset):
    """mmseg's BaseSegDataset for images of any suffix, with clear errors for missing folders and files.

    Every image needs a label map, except in test mode without a folder of label maps. Other files in the folders are
    ignored; one warning reports their number.

    Args:
        img_suffix: exact end of the images' file names; None: any of `IMAGE_SUFFIXES`, in upper or lower case.
        seg_map_suffix: the same for label maps; None: any of `LABEL_SUFFIXES`.
        kwargs: the parent's arguments: ``data_prefix`` with img_path and seg_map_path (may be omitted in test mode),
            ``metainfo`` with classes and palette, ``ann_file``, a text file that selects images, one name per line,
            with or without suffix, relative to the folder of images or to ``data_root``, or absolute.

    Raises:
        FileNotFoundError: a folder does not exist or has no image, or an image or label map is missing.
        ValueError: two images, or two label maps, differ only in their suffix.
    """

    def __init__(self, img_suffix: str | None = None, seg_map_suffix: str | None = None, **kwargs: Any) -> None:
        check_prefix(kwargs.get('data_prefix', {}), tuple(KINDS), type(self).__name__, kwargs.get('ann_file'))
        super().__init__(img_suffix=img_suffix, seg_map_suffix=seg_map_suffix, **kwargs)

    def load_data_list(self) -> list[dict[str, Any]]:
        """List the images, and check that each has its label map."""
        folders = LabelFolders(
            self.data_prefix,
            self.img_suffix,
            self.seg_map_suffix,
            self.test_mode,
            list_files(self.backend_args),
            self.data_root or '',
        )
        pairs, warning = folders.pairs(type(self).__name__, self._names_in_list(), self.ann_file)
        warn(warning)
        return [self._item(pair) for pair in pairs]

    def _item(self, pair: LabelPair) -> dict[str, Any]:
        item = {
            'img_path': pair.image,
            'label_map': self.label_map,
            'reduce_zero_label': self.reduce_zero_label,
            'seg_fields': [],
        }
        if pair.label_map is not None:
            item['seg_map_path'] = pair.label_map
        return item

    def _names_in_list(self) -> list[str] | None:
        """Names of images in ``ann_file``; None without such a file."""
        if not self.ann_file or osp.isdir(self.ann_file):
            return None
        return read_list(self.ann_file, 'list of images', self.backend_args)
