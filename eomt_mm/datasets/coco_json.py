"""What the data sets in COCO's two formats share: reading the json, classes by name, images to train on."""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mmengine import fileio
from mmengine.logging import print_log

from eomt_mm.annotations.documents import InstancesFile, read_instances

Item = dict[str, Any]


def read_annotation_file(path: str, backend_args: dict | None = None) -> bytes:
    """Content of an annotation file through mmengine's file backend; raises FileNotFoundError with a hint."""
    try:
        content: bytes = fileio.get(path, backend_args=backend_args)
    except FileNotFoundError as error:
        raise FileNotFoundError(f'annotation file {path} does not exist: check data_root and ann_file') from error
    return content


def read_instances_json(path: str, annotated: bool = True, backend_args: dict | None = None) -> InstancesFile:
    """Read a file in the COCO instance format, for data sets and metrics; logs how many annotations are left out.

    Arguments, result and errors: see `read_annotation_file` and `eomt_mm.annotations.documents.read_instances`.
    """
    content = read_annotation_file(path, backend_args)
    return read_instances(content, path, annotated=annotated, warn=_warn)


def _warn(text: str) -> None:
    print_log(text, logger='current', level=logging.WARNING)


def categories_by_name(data: Mapping[str, Any], classes: Sequence[str], path: str) -> list[dict[str, Any]]:
    """Finds the category of each class by its name, whatever the order in the json.

    Args:
        data: content of the json.
        classes: names, in the order of labels.
        path: of the json, for the message.

    Returns:
        one entry of data['categories'] per class; label k is the k-th.

    Raises:
        ValueError: classes are missing from the json, or names repeat.
    """
    names = [category['name'] for category in data['categories']]
    repeated = sorted({name for given in (names, list(classes)) for name in given if given.count(name) > 1})
    if repeated:
        raise ValueError(
            f'{path}: names must be unique, in the {len(names)} categories and the {len(classes)} classes. '
            f'Repeated: {repeated}. There: {names}'
        )
    found = dict(zip(names, data['categories'], strict=True))
    missing = [name for name in classes if name not in found]
    if missing:
        raise ValueError(
            f'{len(missing)} of the {len(classes)} classes are not among the {len(names)} categories of {path}. '
            f'Missing: {missing}. There: {names}. Pass metainfo=dict(classes=...), for panoptic data also '
            'thing_classes=... and stuff_classes=..., with the names of the file'
        )
    return [found[name] for name in classes]


def images_to_train_on(
    items: list[Item], filter_cfg: Mapping[str, Any], is_empty: Callable[[Item], bool], path: str
) -> list[Item]:
    """Leaves out the images that ``filter_cfg`` says.

    Args:
        items: of a data set, with height and width (pixels).
        filter_cfg: ``filter_empty_gt`` leaves out images without targets, ``min_size`` those with a shorter side
            below it (pixels).
        is_empty: whether an item has no target.
        path: of the json, for the message.

    Raises:
        ValueError: none is left.
    """
    drop_empty = filter_cfg.get('filter_empty_gt', False)
    min_size = filter_cfg.get('min_size', 0)
    kept = [
        item for item in items if min(item['width'], item['height']) >= min_size and not (drop_empty and is_empty(item))
    ]
    if not kept:
        raise ValueError(
            f'filter_cfg={dict(filter_cfg)} leaves none of the {len(items)} images of {path}: check that its '
            'annotations belong to its images, or filter less'
        )
    return kept
