"""Shared code of the data sets in COCO's two formats: read the JSON, filter training images, check their files."""

import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from mmengine import fileio
from mmengine.dataset import BaseDataset
from mmengine.logging import print_log

from eomt_mm.annotations.categories import crowds_text, images_to_train_on, left_out_text, unused_categories_texts
from eomt_mm.annotations.documents import InstancesFile, read_instances
from eomt_mm.datasets.file_listing import check_files, check_prefix, picked, warn_of_repeated, why_missing

Item = dict[str, Any]
Form = TypeVar('Form')


def read_annotation_file(path: str, backend_args: dict | None = None) -> bytes:
    """Read an annotation file through mmengine's file backend; raises FileNotFoundError with a hint."""
    if not path:
        raise FileNotFoundError("ann_file='': name the annotation file (json)")
    try:
        content: bytes = fileio.get(path, backend_args=backend_args)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f'annotation file {path} does not exist{why_missing(path, backend_args)}: check data_root and ann_file'
        ) from error
    except IsADirectoryError as error:
        raise FileNotFoundError(f'annotation file {path} is a folder: name the json in it as ann_file') from error
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
    """Log how many annotations are crowds, if any, as a warning if they are more than half; see `crowds_text`."""
    text, is_many = crowds_text(flags, path)
    if text:
        print_log(text, logger='current', level=logging.WARNING if is_many else logging.INFO)


def report_categories(
    data: Mapping[str, Any], categories: Sequence[Mapping[str, Any]], used: Collection[Any], path: str, training: bool
) -> None:
    """Log which annotated categories are no classes and, for training, warn about classes without annotations.

    Metrics warn about classes that do not occur. Other arguments: see `unused_categories_texts`.
    """
    left_out, not_learnt = unused_categories_texts(data, categories, used, path)
    if left_out:
        print_log(left_out, logger='current')
    if not_learnt and training:
        _warn(not_learnt)


class JsonDataset(BaseDataset):
    """Base of the data sets in both formats: filters training images, checks their files, states their JSON."""

    most_targets: tuple[int, str]  # most targets of an image, and its path; for `QueryLimitHook`

    def crowd_flags(self, item: Item) -> list[bool]:
        """Return whether each annotation of ``item`` is a crowd."""
        raise NotImplementedError

    def _join_prefix(self) -> None:
        check_prefix(self.data_prefix, ('img', 'seg'), type(self).__name__, self.ann_file)
        if 'img' not in self.data_prefix:
            raise ValueError(f'data_prefix={self.data_prefix} has no "img": name the folder of the images')
        super()._join_prefix()

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
            if text := left_out_text(len(items), self.data_list, self.filter_cfg, self.ann_file):
                print_log(text, logger='current')
        counts = ((self.crowd_flags(item).count(False), item['img_path']) for item in items)
        self.most_targets = max(counts, default=(0, ''))
        chosen = picked(items, self._indices)
        check_files(chosen, 'img_path', 'images', self.ann_file, self.backend_args, self.data_prefix['img'])
        warn_of_repeated(chosen, 'img_path', 'images', self.ann_file)
        return items
