"""Data sets made of a folder of images and folders of annotation files with the same names."""

from collections.abc import Mapping
from typing import Any

from mmengine.dataset import BaseDataset

from eomt_mm.annotations.categories import choose_classes
from eomt_mm.annotations.folders import FolderLayout
from eomt_mm.datasets.file_listing import check_prefix, list_files, warn


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

    # See `FolderLayout`.
    img_suffix: str
    annotations: Mapping[str, tuple[str, str]]
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
        check_prefix(data_prefix, ('img', *self.annotations), type(self).__name__)
        self.img_suffix = img_suffix or self.img_suffix
        self.backend_args = backend_args
        super().__init__(metainfo=metainfo, data_root=data_root, data_prefix=dict(data_prefix), **kwargs)

    @classmethod
    def _load_metainfo(cls, metainfo: Mapping[str, Any] | None = None) -> dict[str, Any]:
        stated = super()._load_metainfo(metainfo)
        return {**stated, **choose_classes(cls.METAINFO, stated, given=set(metainfo or ()))}

    def load_data_list(self) -> list[dict[str, Any]]:
        """List the images and find their annotations; see the class."""
        layout = FolderLayout(self.img_suffix, self.annotations, self.source)
        items, warning = layout.items(
            self.data_prefix, self.test_mode, type(self).__name__, list_files(self.backend_args)
        )
        warn(warning)
        return items

    def get_data_info(self, idx: int) -> dict[str, Any]:
        """Return an item, with the ``category_ids`` that all items share and that are not stored per item."""
        return {**super().get_data_info(idx), 'category_ids': self._metainfo['category_ids']}
