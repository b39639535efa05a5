"""Shared code of the data sets in COCO's two formats: read the JSON, find classes by name, filter training images."""

import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from mmengine import fileio
from mmengine.dataset import BaseDataset
from mmengine.logging import print_log

from eomt_mm.annotations.documents import InstancesFile, read_instances
from eomt_mm.datasets.file_listing import check_files, picked

Item = dict[str, Any]
HINT = 'check that its annotations belong to its images and to metainfo.classes, or filter less'
Form = TypeVar('Form')


def read_annotation_file(path: str, backend_args: dict | None = None) -> bytes:
    """Read an annotation file through mmengine's file backend; raises FileNotFoundError with a hint."""
    try:
        content: bytes = fileio.get(path, backend_args=backend_args)
    except FileNotFoundError as error:
        raise FileNotFoundError(f'annotation file {path} does not exist: check data_root and ann_file') from error
    return content


def read_instances_json(path: str, annotated: bool = True, backend_args: dict | None = None) -> InstancesFile:
    """Read a file in the COCO instance format, for data sets and metrics; log how many annotations are dropped.

    Arguments, result and errors: see `read_annotation_file` and `eomt_mm.annotations.documents.read_instances`.
    """
    content = read_annotation_file(path, backend_args)
    return read_instances(content, path, annotated=annotated, warn=_warn)


class AnnotationFile:
    """The annotation file that a data set has read, passed to its metrics so that they need not read it again.

    Data sets in test mode have it in their metainfo, as ``annotation_file``. Copying returns the same object, and
    pickling for other processes (data loaders) drops the content.

    Args:
        path: of the JSON.
        content: parsed content; None after `compact`.
        seg_prefix: folder of the PNGs of panoptic data.
        backend_args: arguments of mmengine's file backend.
    """

    def __init__(
        self, path: str, content: Any, seg_prefix: str | None = None, backend_args: dict | None = None
    ) -> None:
        self.path = path
        self.content = content
        self.seg_prefix = seg_prefix
        self.backend_args = backend_args
        self._compact: Any = None

    def compact(self, form: Callable[['AnnotationFile'], Form]) -> Form:
        """Convert the content with ``form`` on the first call, drop it, and return the same result to all metrics."""
        if self._compact is None:
            self._compact, self.content = form(self), None
        found: Form = self._compact
        return found

    def __deepcopy__(self, memo: dict[int, Any]) -> 'AnnotationFile':
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.path, None, self.seg_prefix, self.backend_args)

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other)  # otherwise mmengine's ConcatDataset rejects data sets of different files

    __hash__ = None  # type: ignore[assignment]


class InstanceAnnotations(AnnotationFile):
    """A file in the COCO instance format."""


class PanopticAnnotations(AnnotationFile):
    """A file in the COCO panoptic format."""


def _warn(text: str) -> None:
    print_log(text, logger='current', level=logging.WARNING)


def report_crowds(flags: Iterable[bool], path: str) -> None:
    """Log how many annotations are crowds, if any, as a warning if they are more than half.

    Args:
        flags: whether each annotation is a crowd.
        path: of the JSON.
    """
    found = list(flags)
    count = sum(found)
    if not count:
        return
    text = f'{path}: {count} of {len(found)} annotations are crowds (iscrowd=1), which are no targets of training'
    is_many = 2 * count > len(found)
    hint = '. Tools that write run lengths often set iscrowd=1 for every mask: where these are objects, set it to 0'
    print_log(text + hint * is_many, logger='current', level=logging.WARNING if is_many else logging.INFO)


def only_crowds(flags: Iterable[Any]) -> str:
    """Error text if all annotations are crowds; '' if any is not a crowd, or there are none."""
    found = list(flags)
    if not found or not all(found):
        return ''
    return (
        f'all {len(found)} annotations of these classes are crowds (iscrowd=1), which are no targets: set iscrowd to 0 '
        'where they are objects; tools that write run lengths often set it to 1'
    )


def categories_by_name(
    data: Mapping[str, Any], classes: Sequence[str], path: str, used: Collection[Any] = ()
) -> list[dict[str, Any]]:
    """Find the category of each class by name, whatever the order in the JSON.

    If several categories have the name of a class, the one with annotations is used. If none has annotations, the one
    whose supercategory has that name is used: Roboflow's exports begin with an unused category for the whole project,
    often named like a class, which is the supercategory of the others.

    Args:
        data: content of the JSON.
        classes: names, in the order of labels.
        path: of the JSON, for the message.
        used: ids of the categories that have annotations.

    Returns:
        one entry of data['categories'] per class; label k is the k-th.

    Raises:
        ValueError: classes repeat or are missing from the JSON, or a class name is ambiguous.
    """
    repeated = sorted({name for name in classes if list(classes).count(name) > 1})
    if repeated:
        raise ValueError(f'metainfo: the names of the {len(classes)} classes must be unique. Repeated: {repeated}')
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in classes}
    for category in data['categories']:
        found.get(category['name'], []).append(category)
    missing = [name for name, same in found.items() if not same]
    if missing:
        names = [category['name'] for category in data['categories']]
        raise ValueError(
            f'{len(missing)} of the {len(classes)} classes are not among the {len(names)} categories of {path}. '
            f'Missing: {missing}. There: {names}. Pass metainfo=dict(classes=...), for panoptic data also '
            'thing_classes=... and stuff_classes=..., with the names of the file'
        )
    return [_the_one_meant(same, used, path) for same in found.values()]


def _the_one_meant(same: list[dict[str, Any]], used: Collection[Any], path: str) -> dict[str, Any]:
    """Choose among the categories of the same name; see `categories_by_name`."""
    if len(same) == 1:
        return same[0]
    name, ids = same[0]['name'], [category['id'] for category in same]
    annotated = [category for category in same if category['id'] in used]
    meant = annotated or [category for category in same if category.get('supercategory') == name]
    if len(meant) == 1:
        return meant[0]
    which = f'{len(annotated)} of them have annotations' if annotated else 'none of them has annotations'
    raise ValueError(
        f'{path}: {len(same)} categories are named {name!r}, with the ids {ids}, and {which}: give them names of their '
        'own, or merge them'
    )


def images_to_train_on(
    items: list[Item], filter_cfg: Mapping[str, Any], crowd_flags: Callable[[Item], list[bool]], path: str
) -> list[Item]:
    """Filter the training images of a data set according to ``filter_cfg``.

    Args:
        items: of a data set, with height and width (pixels).
        filter_cfg: ``filter_empty_gt`` drops images without targets, ``min_size`` drops images whose shorter side is
            below it (pixels).
        crowd_flags: returns whether each annotation of an item is a crowd; an item with only crowds has no target.
        path: of the JSON, for the message.

    Raises:
        ValueError: no image is left.
    """
    drop_empty = filter_cfg.get('filter_empty_gt', False)
    min_size = filter_cfg.get('min_size', 0)
    kept = [
        item
        for item in items
        if min(item['width'], item['height']) >= min_size and not (drop_empty and all(crowd_flags(item)))
    ]
    if not kept:
        raise ValueError(
            f'filter_cfg={dict(filter_cfg)} leaves none of the {len(items)} images of {path}: '
            + (only_crowds(flag for item in items for flag in crowd_flags(item)) or HINT)
        )
    return kept


class JsonDataset(BaseDataset):
    """Base of the data sets in both formats: filters training images, checks their files, states their JSON."""

    most_targets: tuple[int, str]  # most targets of an image, and its path; for `QueryLimitHook`

    def crowd_flags(self, item: Item) -> list[bool]:
        """Return whether each annotation of ``item`` is a crowd."""
        raise NotImplementedError

    def get_data_info(self, idx: int) -> Item:
        """Return an item with the path of its annotation file, so that `LoadImage` can check the stated image size."""
        return {**super().get_data_info(idx), 'ann_file': self.ann_file}

    def filter_data(self) -> list[Item]:
        """Drop images that cannot be trained on, and check that the files of the others exist.

        In test mode all images are kept: dropping one would hide its false positives.
        """
        items = self.data_list
        if not self.test_mode and self.filter_cfg is not None:
            items = images_to_train_on(items, self.filter_cfg, self.crowd_flags, self.ann_file)
        counts = ((self.crowd_flags(item).count(False), item['img_path']) for item in items)
        self.most_targets = max(counts, default=(0, ''))
        check_files(picked(items, self._indices), 'img_path', 'images', self.ann_file, self.backend_args)
        return items
