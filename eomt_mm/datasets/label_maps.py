"""Semantic data set for your own files: a folder of images and a folder of label maps, checked at build time."""

import os.path as osp
from collections.abc import Mapping
from typing import Any

from mmengine import fileio
from mmseg.datasets import BaseSegDataset

from eomt_mm.datasets.file_listing import by_stem, described, files_below, warn_of_rest
from eomt_mm.fileio.images import IMAGE_SUFFIXES
from eomt_mm.registry import DATASETS

# Lossless formats, which preserve label values.
LABEL_SUFFIXES = ('.bmp', '.pgm', '.png', '.tif', '.tiff')
KINDS = {'img_path': ('img_suffix', IMAGE_SUFFIXES), 'seg_map_path': ('seg_map_suffix', LABEL_SUFFIXES)}


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
            with or without suffix.

    Raises:
        FileNotFoundError: a folder does not exist or has no image, or an image or label map is missing.
        ValueError: two images, or two label maps, differ only in their suffix.
    """

    def __init__(self, img_suffix: str | None = None, seg_map_suffix: str | None = None, **kwargs: Any) -> None:
        super().__init__(img_suffix=img_suffix, seg_map_suffix=seg_map_suffix, **kwargs)

    def load_data_list(self) -> list[dict[str, Any]]:
        """List the images, and check that each has its label map."""
        names = self._names_in_list()
        files = {key: self._list(key) for key in KINDS if self.data_prefix.get(key)}
        if 'seg_map_path' not in files and not self.test_mode:
            raise FileNotFoundError(
                f'data_prefix={self.data_prefix} has no seg_map_path: name the folder of label maps'
            )
        maps = self._by_stem('seg_map_path', files.get('seg_map_path', []))
        images_of_folder = files.get('img_path', [])
        if self._in_one_folder():
            names_of_maps = set(maps.values())
            images_of_folder = [name for name in images_of_folder if name not in names_of_maps]
        images = self._by_stem('img_path', images_of_folder)
        if not images:
            raise FileNotFoundError(self._no_image(images_of_folder))
        if names is None:
            self._warn_of_rest(images_of_folder, images, maps)
        else:
            images = self._listed(names, images)
        missing = [stem for stem in images if stem not in maps]
        if missing and 'seg_map_path' in files:
            ends = self.seg_map_suffix or ', '.join(LABEL_SUFFIXES)
            raise FileNotFoundError(
                f'data_prefix.seg_map_path={self.data_prefix["seg_map_path"]}: {len(missing)} of {len(images)} images '
                f'have no label map, the first would be {missing[0]}{self.seg_map_suffix or ".png"} (of '
                f'{images[missing[0]]}; searched: {ends}); add them, remove the images, or give seg_map_suffix, or '
                'img_suffix where not all of these are images'
            )
        return [self._item(stem, name, maps) for stem, name in images.items()]

    def _item(self, stem: str, name: str, maps: Mapping[str, str]) -> dict[str, Any]:
        item = {
            'img_path': osp.join(self.data_prefix['img_path'], name),
            'label_map': self.label_map,
            'reduce_zero_label': self.reduce_zero_label,
            'seg_fields': [],
        }
        if maps:
            item['seg_map_path'] = osp.join(self.data_prefix['seg_map_path'], maps[stem])
        return item

    def _names_in_list(self) -> list[str] | None:
        """Names of images in ``ann_file``, without blank lines; None without such a file."""
        if not self.ann_file or osp.isdir(self.ann_file):
            return None
        try:
            text = fileio.get_text(self.ann_file, encoding='utf-8-sig', backend_args=self.backend_args)
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f'list of images {self.ann_file} does not exist: check data_root and ann_file'
            ) from error
        names = [line.strip() for line in text.splitlines() if line.strip()]
        if not names:
            raise ValueError(f'list of images {self.ann_file} is empty: give a name per line, or leave ann_file out')
        return names

    def _listed(self, names: list[str], images: Mapping[str, str]) -> dict[str, str]:
        """Select the images that ``ann_file`` lists, in its order."""
        stems = {name: stem for stem, name in images.items()} | {stem: stem for stem in images}
        missing = [name for name in names if name not in stems]
        if missing:
            raise FileNotFoundError(
                f'{self.ann_file}: {len(missing)} of {len(names)} images are not below '
                f'data_prefix.img_path={self.data_prefix["img_path"]}, the first would be '
                f'{missing[0]}{self.img_suffix or ""}: add them, remove the lines, or correct data_prefix or img_suffix'
            )
        return {stems[name]: images[stems[name]] for name in names}

    def _in_one_folder(self) -> bool:
        folders = [osp.normpath(self.data_prefix.get(key) or '') for key in KINDS]
        return folders[0] == folders[1]

    def _by_stem(self, key: str, files: list[str]) -> dict[str, str]:
        argument, usual = KINDS[key]
        try:
            return by_stem(files, getattr(self, argument), usual, argument)
        except ValueError as error:
            raise ValueError(f'data_prefix.{key}={self.data_prefix[key]}: {error}') from error

    def _no_image(self, files: list[str]) -> str:
        there = f'; there are {described(files)}' if files else ''
        what = f'*{self.img_suffix}' if self.img_suffix else f'of an image ({", ".join(IMAGE_SUFFIXES)})'
        return (
            f'data_prefix.img_path={self.data_prefix.get("img_path")}: no file {what} below it{there}; check data_root '
            "and data_prefix, or give img_suffix='.png' or whatever the images end with"
        )

    def _warn_of_rest(self, files: list[str], images: Mapping[str, str], maps: Mapping[str, str]) -> None:
        used = set(images.values())
        rest = [name for name in files if name not in used]
        why = (
            f"which do not end with img_suffix='{self.img_suffix}'" if self.img_suffix else 'of no suffix that is read'
        )
        without_image = [name for stem, name in maps.items() if stem not in images]
        folder = self.data_prefix.get('seg_map_path', '')
        parts = [(self.data_prefix['img_path'], rest, why), (folder, without_image, 'label maps without an image')]
        warn_of_rest(type(self).__name__, len(images), parts)

    def _list(self, key: str) -> list[str]:
        folder = self.data_prefix[key]
        other = self.data_prefix.get('seg_map_path' if key == 'img_path' else 'img_path')
        try:
            return files_below(folder, other, self.backend_args)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise FileNotFoundError(
                f'data_prefix.{key}: folder {osp.normpath(folder)} does not exist: check data_root and data_prefix'
            ) from error
