"""Data sets made of a folder of images and folders of annotation files with the same names."""

import os.path as osp
from collections.abc import Mapping
from typing import Any

from mmengine.dataset import BaseDataset

from eomt_mm.datasets.file_listing import by_stem, files_below, warn_of_rest


class FolderDataset(BaseDataset):
    """Images in a folder and its sub-folders, sorted by path, each paired with its annotation files; needs no list.

    Subclasses state ``METAINFO`` (classes, palette and category_ids, the number of each class in files; with stuff also
    thing_classes and stuff_classes, where classes are the things followed by the stuff), ``img_suffix``,
    ``annotations`` and ``source``. An item holds img_path, img_id (the image's file name without ``img_suffix``),
    category_ids (of each label, for the loading transform) and the paths that ``annotations`` names.

    Args:
        metainfo: ``classes`` selects classes of the data set, in any order; pixels of the others are void. The
            category_ids, and the palette if not given, are selected accordingly.
        data_root: folder that relative prefixes refer to.
        data_prefix: folder of the images (``img``) and of each kind of annotation. In test mode the annotations may
            be omitted (test sets).
        img_suffix: end of the images' file names, if it is not the default.
        backend_args: arguments of mmengine's file backend.
        kwargs: indices, pipeline, test_mode, lazy_init and other arguments of mmengine's ``BaseDataset``, except
            ann_file and filter_cfg.

    Raises:
        FileNotFoundError: a folder or an annotation does not exist, or there is no image.
        ValueError: prefixes are missing, image names repeat, or ``metainfo`` names classes that do not exist.
    """

    img_suffix: str
    # Key of data_prefix: (key of the item, end of the file names in place of img_suffix)
    annotations: dict[str, tuple[str, str]]
    # Downloads that contain the folders, for messages
    source: str

    def __init__(
        self,
        metainfo: Mapping[str, Any] | None = None,
        data_root: str = '',
        data_prefix: Mapping[str, str] = {'img': ''},
        img_suffix: str | None = None,
        backend_args: dict | None = None,
        **kwargs: Any,
    ) -> None:
        unread = [name for name in ('ann_file', 'filter_cfg') if kwargs.pop(name, None)]
        if unread:
            raise ValueError(f'{type(self).__name__} reads folders, not {unread}: leave it out (indices picks images)')
        self.img_suffix = img_suffix or self.img_suffix
        self.backend_args = backend_args
        super().__init__(metainfo=metainfo, data_root=data_root, data_prefix=dict(data_prefix), **kwargs)

    @classmethod
    def _load_metainfo(cls, metainfo: Mapping[str, Any] | None = None) -> dict[str, Any]:
        stated = super()._load_metainfo(metainfo)
        return {**stated, **choose_classes(cls.METAINFO, stated, given=set(metainfo or ()))}

    def load_data_list(self) -> list[dict[str, Any]]:
        """List the images and find their annotations; see the class."""
        folders = self._annotation_folders()
        listed = self._list('img', self.img_suffix)
        images = by_stem(listed, self.img_suffix, (), 'img_suffix')
        if not images:
            raise FileNotFoundError(
                f'data_prefix["img"]: no file *{self.img_suffix} below {self.data_prefix["img"]}: unpack the images '
                f'there ({self.source}), check data_root, or give img_suffix'
            )
        items = [
            {'img_path': osp.join(self.data_prefix['img'], name), 'img_id': osp.basename(stem)}
            for stem, name in images.items()
        ]
        _check_unique(items)
        maps = {key: self._annotation_files(key, images) for key in folders}
        for key, found in maps.items():
            for item, stem in zip(items, images, strict=True):
                item[self.annotations[key][0]] = osp.join(self.data_prefix[key], found[stem])
        self._warn_of_rest(listed, images, maps)
        return items

    def _warn_of_rest(
        self, listed: list[str], images: Mapping[str, str], maps: Mapping[str, Mapping[str, str]]
    ) -> None:
        used = set(images.values()).union(*(found.values() for found in maps.values()))
        rest = [name for name in listed if name not in used]
        parts = [(self.data_prefix['img'], rest, f"which do not end with img_suffix='{self.img_suffix}'")]
        for key, found in maps.items():
            without_image = [name for stem, name in found.items() if stem not in images]
            parts.append((self.data_prefix[key], without_image, 'annotations without an image'))
        warn_of_rest(type(self).__name__, len(images), parts)

    def get_data_info(self, idx: int) -> dict[str, Any]:
        """Return an item, with the ``category_ids`` that all items share and that are not stored per item."""
        return {**super().get_data_info(idx), 'category_ids': self._metainfo['category_ids']}

    def _annotation_folders(self) -> list[str]:
        """Keys of data_prefix to pair the images with: all kinds of annotation or, in test mode, possibly none."""
        given = [key for key in self.annotations if self.data_prefix.get(key)]
        missing = [key for key in ('img', *self.annotations) if not self.data_prefix.get(key)]
        if missing and (given or not self.test_mode or 'img' in missing):
            raise ValueError(
                f'data_prefix={self.data_prefix} has no {missing}: give folders for {["img", *self.annotations]} '
                f'({self.source}); in test mode img alone is enough'
            )
        return given

    def _list(self, key: str, suffix: str) -> list[str]:
        folder = self.data_prefix[key]
        try:
            return files_below(folder, backend_args=self.backend_args)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise FileNotFoundError(
                f'data_prefix["{key}"]: folder {folder} of the files *{suffix} does not exist ({self.source}): check '
                'data_root and data_prefix'
            ) from error

    def _annotation_files(self, key: str, images: Mapping[str, str]) -> dict[str, str]:
        """Map image names without suffix to annotation files; every image needs one."""
        suffix = self.annotations[key][1]
        found = by_stem(self._list(key, suffix), suffix, (), 'suffix')
        missing = [stem for stem in images if stem not in found]
        if missing:
            raise FileNotFoundError(
                f'data_prefix["{key}"]: {len(missing)} of {len(images)} images have no annotation below '
                f'{self.data_prefix[key]}, the first would be {missing[0]}{suffix}: unpack it completely '
                f'({self.source}), or remove the images without annotation'
            )
        return found


def choose_classes(known: Mapping[str, Any], stated: Mapping[str, Any], given: set[str]) -> dict[str, Any]:
    """Derive palette, category ids and things from the class names that a user selects.

    Args:
        known: METAINFO of the data set: classes, palette, category_ids and, for panoptic data, thing_classes.
        stated: the same, updated with the user's entries.
        given: keys that the user gave.

    Returns:
        classes, palette, category_ids and, for panoptic data, thing_classes and stuff_classes.

    Raises:
        ValueError: names do not exist, repeat, or are not things followed by stuff.
    """
    names, classes = list(known['classes']), tuple(stated['classes'])
    unknown = [name for name in classes if name not in names]
    if unknown or len(set(classes)) < len(classes) or not classes:
        raise ValueError(
            f'metainfo: classes {unknown or classes} are unknown or repeat; choose among the {len(names)} of the '
            f'data set: {names}'
        )
    index = [names.index(name) for name in classes]
    chosen: dict[str, Any] = {'classes': classes, 'category_ids': tuple(known['category_ids'][i] for i in index)}
    chosen['palette'] = stated['palette'] if 'palette' in given else [known['palette'][i] for i in index]
    if 'thing_classes' in known:
        split = {key: tuple(n for n in classes if n in known[key]) for key in ('thing_classes', 'stuff_classes')}
        wrong = [key for key in split if key in given and tuple(stated[key]) != split[key]]
        if wrong or classes != split['thing_classes'] + split['stuff_classes']:
            raise ValueError(
                f'metainfo: classes must be things followed by stuff, and {wrong or "both"} agree with them: things '
                f'of these classes are {split["thing_classes"]}, stuff {split["stuff_classes"]}'
            )
        chosen.update(split)
    return chosen


def _check_unique(items: list[dict[str, Any]]) -> None:
    paths: dict[str, str] = {}
    for item in items:
        first = paths.setdefault(item['img_id'], item['img_path'])
        if first != item['img_path']:
            raise ValueError(
                f'{first} and {item["img_path"]} have the same name, by which metrics and result files identify '
                'images: rename one, or give a data_prefix that holds one of them'
            )
