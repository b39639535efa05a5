"""What the data sets in COCO's two formats share: reading the json, classes by name, images to train on."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mmengine import fileio

Item = dict[str, Any]


def read_coco_json(path: str, example: str, annotated: bool = True, backend_args: dict | None = None) -> dict[str, Any]:
    """Reads an annotation file and checks what the instance and the panoptic format have in common.

    Args:
        path: of the json.
        example: the format and a file of it, for the message.
        annotated: whether annotations must be there; where not, images and categories suffice, as in the files of
            the test sets.
        backend_args: of mmengine's file backend.

    Returns:
        content of the file with 'images', 'categories' and 'annotations' (may be empty unless ``annotated``).

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no json, has not these parts, or has faulty images.
    """
    try:
        # mmengine's load goes through StringIO, with four bytes per character: 1.7 GB more for train2017.
        data = json.loads(fileio.get_text(path, backend_args=backend_args))
    except FileNotFoundError as error:
        raise FileNotFoundError(f'annotation file {path} does not exist: check data_root and ann_file') from error
    except ValueError as error:
        raise ValueError(f'annotation file {path} is not valid json ({error}): download or convert it again') from error
    if isinstance(data, dict) and not annotated:
        data.setdefault('annotations', [])
    keys = [key for key in ('images', 'categories', 'annotations') if not isinstance(data, dict) or key not in data]
    if keys:
        raise ValueError(f'{path} has no {keys}: give a json in {example}')
    for image in data['images']:
        if not {'id', 'file_name', 'height', 'width'} <= image.keys():
            raise ValueError(f'{path}: image {image} needs "id", "file_name", "height" and "width" (pixels)')
    if len({image['id'] for image in data['images']}) < len(data['images']):
        raise ValueError(f'{path}: ids of images must be unique; number them anew where files were merged')
    return data


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
