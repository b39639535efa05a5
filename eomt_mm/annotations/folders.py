"""Pair the images in a folder and its sub-folders with annotation files of the same names."""

import os.path as osp
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from eomt_mm.fileio.listing import ListFiles, by_stem, local_files_below, rest_text, sorted_files

Prefix = Mapping[str, Any]  # kind of files to folder


@dataclass(frozen=True)
class FolderLayout:
    """Names of the files of a data set without a list.

    Attributes:
        img_suffix: end of the images' file names.
        annotations: key of data_prefix: (key of the item, end of the file names in place of img_suffix).
        source: downloads that contain the folders, for messages.
    """

    img_suffix: str
    annotations: Mapping[str, tuple[str, str]]
    source: str

    def kinds(self, data_prefix: Prefix, test_mode: bool) -> list[str]:
        """Keys of data_prefix to pair the images with: all kinds of annotation or, in test mode, possibly none.

        Raises:
            ValueError: folders are missing.
        """
        given = [key for key in self.annotations if data_prefix.get(key)]
        missing = [key for key in ('img', *self.annotations) if not data_prefix.get(key)]
        if missing and (given or not test_mode or 'img' in missing):
            raise ValueError(
                f'data_prefix={data_prefix} has no {missing}: give folders for {["img", *self.annotations]} '
                f'({self.source}); in test mode img alone is enough'
            )
        return given

    def items(
        self, data_prefix: Prefix, test_mode: bool, whose: str, list_files: ListFiles = local_files_below
    ) -> tuple[list[dict[str, Any]], str]:
        """Pair the images with their annotations.

        Args:
            data_prefix: folder of the images (``img``) and of each kind of annotation.
            test_mode: the annotations may be omitted.
            whose: name of the data set, for the warning.
            list_files: lists the files below a folder.

        Returns:
            items with img_path, img_id (the image's file name without ``img_suffix``) and the paths that
            ``annotations`` names; and a warning about files that are not used, or ''.

        Raises:
            FileNotFoundError: a folder or an annotation does not exist, or there is no image.
            ValueError: folders are not given, or image names repeat.
        """
        kinds = self.kinds(data_prefix, test_mode)
        listed = self._list(data_prefix, 'img', self.img_suffix, list_files)
        images = by_stem(listed, self.img_suffix, (), 'img_suffix')
        if not images:
            raise FileNotFoundError(
                f'data_prefix["img"]: no file *{self.img_suffix} below {data_prefix["img"]}: unpack the images '
                f'there ({self.source}), check data_root, or give img_suffix'
            )
        items = [
            {'img_path': osp.join(data_prefix['img'], name), 'img_id': osp.basename(stem)}
            for stem, name in images.items()
        ]
        _check_unique(items)
        maps = {key: self._annotation_files(data_prefix, key, images, list_files) for key in kinds}
        for key, found in maps.items():
            for item, stem in zip(items, images, strict=True):
                item[self.annotations[key][0]] = osp.join(data_prefix[key], found[stem])
        used = set(images.values()).union(*(found.values() for found in maps.values()))
        rest = [name for name in listed if name not in used]
        parts = [(data_prefix['img'], rest, f"which do not end with img_suffix='{self.img_suffix}'")]
        for key, found in maps.items():
            without_image = [name for stem, name in found.items() if stem not in images]
            parts.append((data_prefix[key], without_image, 'annotations without an image'))
        return items, rest_text(whose, len(images), parts)

    def _list(self, data_prefix: Prefix, key: str, suffix: str, list_files: ListFiles) -> list[str]:
        folder = data_prefix[key]
        try:
            return sorted_files(folder, list_files)
        except (FileNotFoundError, NotADirectoryError) as error:
            missing = error if '://' in folder else f'folder {folder} does not exist'  # what a zip holds is in it
            raise FileNotFoundError(
                f'data_prefix["{key}"]: {missing}; it should hold the files *{suffix} ({self.source}): check data_root '
                'and data_prefix'
            ) from error

    def _annotation_files(
        self, data_prefix: Prefix, key: str, images: Mapping[str, str], list_files: ListFiles
    ) -> dict[str, str]:
        """Map image names without suffix to annotation files; every image needs one."""
        suffix = self.annotations[key][1]
        found = by_stem(self._list(data_prefix, key, suffix, list_files), suffix, (), 'suffix')
        missing = [stem for stem in images if stem not in found]
        if missing:
            raise FileNotFoundError(
                f'data_prefix["{key}"]: {len(missing)} of {len(images)} images have no annotation below '
                f'{data_prefix[key]}, the first would be {missing[0]}{suffix}: unpack it completely '
                f'({self.source}), or remove the images without annotation'
            )
        return found


def _check_unique(items: list[dict[str, Any]]) -> None:
    paths: dict[str, str] = {}
    for item in items:
        first = paths.setdefault(item['img_id'], item['img_path'])
        if first != item['img_path']:
            raise ValueError(
                f'{first} and {item["img_path"]} have the same name, by which metrics and result files identify '
                'images: rename one, or give a data_prefix that holds one of them'
            )
