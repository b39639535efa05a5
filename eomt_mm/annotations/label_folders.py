"""Pair the images in a folder with label maps, of any suffix or of stated ones."""

import os.path as osp
import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from eomt_mm.fileio.images import IMAGE_SUFFIXES
from eomt_mm.fileio.listing import ListFiles, by_stem, composed, local_files_below, rest_text, sorted_files
from eomt_mm.fileio.result_names import described

# Lossless formats, which preserve label values.
LABEL_SUFFIXES = ('.bmp', '.pgm', '.png', '.tif', '.tiff')
LOSSY_SUFFIXES = ('.jfif', '.jpe', '.jpeg', '.jpg', '.webp')
KINDS = {'img_path': ('img_suffix', IMAGE_SUFFIXES), 'seg_map_path': ('seg_map_suffix', LABEL_SUFFIXES)}


class LabelPair(NamedTuple):
    """Paths of an image and its label map; None without a folder of label maps."""

    image: str
    label_map: str | None


@dataclass(frozen=True)
class LabelFolders:
    """A folder of images and a folder of label maps.

    Every image needs a label map, except in test mode without a folder of label maps.

    Attributes:
        data_prefix: the folders, ``img_path`` and ``seg_map_path``.
        img_suffix: exact end of the images' file names; None: any of `IMAGE_SUFFIXES`, in upper or lower case.
        seg_map_suffix: the same for label maps; None: any of `LABEL_SUFFIXES`.
        test_mode: the folder of label maps may be omitted.
        list_files: lists the files below a folder.
        data_root: folder that names in a list may be relative to.
    """

    data_prefix: Mapping[str, str]
    img_suffix: str | None = None
    seg_map_suffix: str | None = None
    test_mode: bool = False
    list_files: ListFiles = local_files_below
    data_root: str = ''

    def pairs(self, whose: str, names: list[str] | None = None, ann_file: str = '') -> tuple[list[LabelPair], str]:
        """List the images, and check that each has its label map.

        Args:
            whose: name of the data set, for the warning.
            names: select these images, in this order: with or without suffix, relative to the folder of images or to
                ``data_root``, or absolute.
            ann_file: file that holds the names.

        Returns:
            pairs; and a warning about files that are not used, or ''.

        Raises:
            FileNotFoundError: a folder does not exist or has no image, or an image or label map is missing.
            ValueError: two images, or two label maps, differ only in their suffix.
        """
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
            raise FileNotFoundError(self._no_image(images_of_folder, maps))
        if names is None:
            warning = self._rest(whose, images_of_folder, images, maps)
        else:
            images, warning = self._listed(names, ann_file, images)
        missing = [stem for stem in images if stem not in maps]
        if missing and 'seg_map_path' in files:
            ends = self.seg_map_suffix or ', '.join(LABEL_SUFFIXES)
            raise FileNotFoundError(
                f'data_prefix.seg_map_path={self.data_prefix["seg_map_path"]}: {len(missing)} of {len(images)} images '
                f'have no label map, the first would be {missing[0]}{self.seg_map_suffix or ".png"} (of '
                f'{images[missing[0]]}; searched: {ends}; {_similar(missing[0], files["seg_map_path"])}); add them, '
                'remove the images, or give seg_map_suffix, or img_suffix where not all of these are images'
            )
        return [self._pair(stem, name, maps) for stem, name in images.items()], warning

    def _pair(self, stem: str, name: str, maps: Mapping[str, str]) -> LabelPair:
        image = osp.join(self.data_prefix['img_path'], name)
        return LabelPair(image, osp.join(self.data_prefix['seg_map_path'], maps[stem]) if maps else None)

    def _listed(self, names: list[str], ann_file: str, images: Mapping[str, str]) -> tuple[dict[str, str], str]:
        """Select the images that ``ann_file`` lists, in its order; also return a warning about repeated ones, or ''."""
        stems = {composed(name): stem for stem, name in images.items()} | {stem: stem for stem in images}
        given, names = names, [self._below_prefix(name, stems) for name in names]
        missing = [old for old, name in zip(given, names, strict=True) if name not in stems]
        if missing:
            raise FileNotFoundError(
                f'{ann_file}: {len(missing)} of {len(names)} images are not below '
                f'data_prefix.img_path={self.data_prefix["img_path"]}, the first would be '
                f'{missing[0]!r}{f" or that with {self.img_suffix}" * bool(self.img_suffix)} (there are '
                f'{described(list(images.values()))}): give one name per line, add the images, or correct data_prefix '
                'or img_suffix'
            )
        chosen = {stems[name]: images[stems[name]] for name in names}
        is_repeated = len(chosen) < len(names)
        return chosen, f'{ann_file}: {len(names)} lines name {len(chosen)} images: each is read once' * is_repeated

    def _below_prefix(self, name: str, stems: Mapping[str, str]) -> str:
        """Name of an image below the folder of images, for one that may be absolute or relative to ``data_root``."""
        name = composed(posixpath.normpath(name.replace('\\', '/')))
        if name in stems:
            return name
        folder = f'{self.data_prefix["img_path"].rstrip("/")}/'
        return osp.join(self.data_root, name).removeprefix(folder)

    def _in_one_folder(self) -> bool:
        folders = [osp.normpath(self.data_prefix.get(key) or '') for key in KINDS]
        return folders[0] == folders[1]

    def _suffix(self, key: str) -> str | None:
        return self.img_suffix if key == 'img_path' else self.seg_map_suffix

    def _by_stem(self, key: str, files: list[str]) -> dict[str, str]:
        argument, usual = KINDS[key]
        try:
            return by_stem(files, self._suffix(key), usual, argument)
        except ValueError as error:
            raise ValueError(f'data_prefix.{key}={self.data_prefix[key]}: {error}') from error

    def _no_image(self, files: list[str], maps: Mapping[str, str]) -> str:
        if self._in_one_folder() and maps:
            return (
                f'data_prefix.img_path={self.data_prefix["img_path"]} is the folder of label maps, too, and all images '
                f"in it count as label maps: {described(list(maps.values()))}; give seg_map_suffix, such as '_mask.png'"
            )
        there = f'; there are {described(files)}' if files else ''
        what = f'*{self.img_suffix}' if self.img_suffix else f'of an image ({", ".join(IMAGE_SUFFIXES)})'
        return (
            f'data_prefix.img_path={self.data_prefix.get("img_path")}: no file {what} below it{there}; check data_root '
            "and data_prefix, or give img_suffix='.png' or whatever the images end with"
        )

    def _rest(self, whose: str, files: list[str], images: Mapping[str, str], maps: Mapping[str, str]) -> str:
        used = set(images.values())
        rest = [name for name in files if name not in used]
        why = (
            f"which do not end with img_suffix='{self.img_suffix}'" if self.img_suffix else 'of no suffix that is read'
        )
        without_image = [name for stem, name in maps.items() if stem not in images]
        folder = self.data_prefix.get('seg_map_path', '')
        parts = [(self.data_prefix['img_path'], rest, why), (folder, without_image, 'label maps without an image')]
        return rest_text(whose, len(images), parts)

    def _list(self, key: str) -> list[str]:
        folder = self.data_prefix[key]
        other = self.data_prefix.get('seg_map_path' if key == 'img_path' else 'img_path')
        try:
            return sorted_files(folder, self.list_files, other)
        except (FileNotFoundError, NotADirectoryError) as error:
            # What a zip holds is in the error.
            missing = error if '://' in folder else f'folder {osp.normpath(folder)} does not exist'
            raise FileNotFoundError(f'data_prefix.{key}: {missing}: check data_root and data_prefix') from error


def _similar(stem: str, files: Sequence[str]) -> str:
    """Describe the file that may be the label map of an image, or all files."""
    for name in files:
        rest = name.removeprefix(stem)
        if name.startswith(stem) and not rest[:1].isalnum():
            if rest.lower() in LOSSY_SUFFIXES:
                return f'there is {name}, of a format that changes values: export PNG files'
            return f"there is {name}, which seg_map_suffix='{rest}' finds"
        if osp.splitext(osp.basename(name))[0] == osp.basename(stem):
            return f'there is {name}: label maps need the same sub-folders as their images'
    return f'there are {described(files)}' if files else 'there is no file'


def names_of_list(text: str, ann_file: str, what: str = 'list of images') -> list[str]:
    """Names in a list, one per line, without blank lines; raises ValueError if there are none."""
    names = [line.strip() for line in text.splitlines() if line.strip()]
    if not names:
        raise ValueError(f'{what} {ann_file} is empty: give a name per line, or leave ann_file out')
    return names
