"""Your own semantic data: a folder of images and one of label maps, checked when the data set is built."""

import os.path as osp
from typing import Any

from mmengine import fileio
from mmseg.datasets import BaseSegDataset

from eomt_mm.registry import DATASETS


@DATASETS.register_module()
class LabelMaps(BaseSegDataset):
    """mmseg's BaseSegDataset with clear errors for missing folders and files.

    Arguments are the parent's: ``data_prefix`` with img_path and seg_map_path (may be left out in test mode),
    ``img_suffix`` ('.jpg'), ``seg_map_suffix`` ('.png'), ``metainfo`` with classes and palette.

    Raises:
        FileNotFoundError: a folder does not exist or has no image, or a label map is missing.
    """

    def load_data_list(self) -> list[dict[str, Any]]:
        """List the images, and check that each has its label map."""
        if self.ann_file:  # names of images in a file
            listed: list[dict[str, Any]] = super().load_data_list()
            return listed
        found = {
            key: self._list(key, suffix)
            for key, suffix in (('img_path', self.img_suffix), ('seg_map_path', self.seg_map_suffix))
            if self.data_prefix.get(key)
        }
        images = found.get('img_path', [])
        if not images:
            raise FileNotFoundError(
                f'data_prefix.img_path={self.data_prefix.get("img_path")}: no file *{self.img_suffix} below it; check '
                "data_root and data_prefix, or give img_suffix='.png' or whatever the images end with"
            )
        maps = set(found.get('seg_map_path', []))
        missing = [
            name for image in images if (name := image.removesuffix(self.img_suffix) + self.seg_map_suffix) not in maps
        ]
        if missing and 'seg_map_path' in found:
            raise FileNotFoundError(
                f'data_prefix.seg_map_path={self.data_prefix["seg_map_path"]}: {len(missing)} of {len(images)} images '
                f'have no label map, the first would be {missing[0]}; add them, remove the images, or give '
                'seg_map_suffix'
            )
        if 'seg_map_path' not in found and not self.test_mode:
            raise FileNotFoundError(
                f'data_prefix={self.data_prefix} has no seg_map_path: name the folder of label maps'
            )
        listed = super().load_data_list()
        return listed

    def _list(self, key: str, suffix: str) -> list[str]:
        folder = self.data_prefix[key]
        try:
            names = fileio.list_dir_or_file(
                folder, list_dir=False, suffix=suffix, recursive=True, backend_args=self.backend_args
            )
            return sorted(names)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise FileNotFoundError(
                f'data_prefix.{key}: folder {osp.normpath(folder)} does not exist: check data_root and data_prefix'
            ) from error
