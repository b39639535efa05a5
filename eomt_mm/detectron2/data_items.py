"""Read data sets as detectron2's data set dicts, with the readers and checks that the mm data sets use."""

import logging
import os
import os.path as osp
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from detectron2.structures import BoxMode

from eomt_mm.annotations import ade20k, cityscapes
from eomt_mm.annotations.categories import (
    categories_by_name,
    check_things_first,
    crowds_text,
    images_to_train_on,
    no_mask_text,
    png_name,
    segments_of_classes,
)
from eomt_mm.annotations.documents import (
    Instance,
    InstancesFile,
    PanopticFile,
    check_file_names,
    read_instances,
    read_panoptic,
)
from eomt_mm.annotations.folders import FolderLayout
from eomt_mm.annotations.label_folders import LabelFolders, names_of_list
from eomt_mm.annotations.segments import read_local
from eomt_mm.detectron2.ground_truth import Item
from eomt_mm.fileio.listing import local_names_in, missing_among, missing_text

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class DataSpec:
    """Where a data set lies, and its classes; the meaning of the fields is that of the mm configs.

    Attributes:
        kind: name of the type, a key of `KINDS`.
        data_prefix: folders by kind of file.
        metainfo: classes, and where they apply thing_classes, stuff_classes, category_ids and palette.
        ann_file: annotation file; for label maps, a list of images.
        filter_cfg: ``filter_empty_gt`` and ``min_size``, for training.
        test_mode: keep all images, and do not demand annotations.
        img_suffix, seg_map_suffix: ends of the names of images and label maps.
        label_ids: value of each class in label maps.
        reduce_zero_label: value 0 of label maps is void.
    """

    kind: str
    data_prefix: Mapping[str, str]
    metainfo: Mapping[str, Any]
    ann_file: str = ''
    filter_cfg: Mapping[str, Any] = field(default_factory=dict)
    test_mode: bool = False
    img_suffix: str | None = None
    seg_map_suffix: str | None = None
    label_ids: Sequence[int] | None = None
    reduce_zero_label: bool = False

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""
        return tuple(self.metainfo['classes'])


# Data set dicts, and the number of each class in the annotation file (none without a file).
Loaded = tuple[list[Item], list[Any]]


def read_annotation_file(path: str) -> bytes:
    """Read an annotation file; raises FileNotFoundError with a hint."""
    try:
        return read_local(path)
    except (FileNotFoundError, IsADirectoryError) as error:
        raise FileNotFoundError(f'annotation file {path} does not exist: check data_root and ann_file') from error


def read_instances_json(path: str, annotated: bool = True) -> InstancesFile:
    """Read and check a file in the COCO instance format; see `read_instances`."""
    return read_instances(read_annotation_file(path), path, annotated=annotated, warn=logger.warning)


def read_panoptic_json(path: str, annotated: bool = True) -> PanopticFile:
    """Read and check a file in the COCO panoptic format; see `read_panoptic`."""
    return read_panoptic(read_annotation_file(path), path, annotated=annotated)


def load_instances(spec: DataSpec) -> Loaded:
    """Load a COCO JSON of instances; see `CocoInstance` of the mm data sets for rules and errors."""
    path = spec.ann_file
    data = read_instances_json(path, annotated=not spec.test_mode)
    check_file_names(data['images'], path)
    categories = categories_by_name(data, spec.classes, path, {one['category_id'] for one in data['annotations']})
    labels = {category['id']: label for label, category in enumerate(categories)}
    _report_crowds([bool(one.get('iscrowd')) for one in data['annotations']], path)
    annotations: dict[Any, list[Instance]] = defaultdict(list)
    for annotation in data['annotations']:
        annotations[annotation['image_id']].append(annotation)
    items = []
    for image in data['images']:
        item = _image_item(spec, image)
        item['annotations'] = [
            _instance(annotation, labels, image['file_name'], spec)
            for annotation in annotations[image['id']]
            if annotation['category_id'] in labels and not annotation.get('ignore', False)
        ]
        items.append(item)
    return _checked(spec, items, lambda item: [bool(one['iscrowd']) for one in item['annotations']]), list(labels)


def _instance(annotation: Instance, labels: Mapping[Any, int], file_name: str, spec: DataSpec) -> dict[str, Any]:
    is_crowd = bool(annotation.get('iscrowd', False))
    instance: dict[str, Any] = {
        'bbox': annotation.get('bbox') or [0, 0, 0, 0],  # only test sets have annotations without box and mask
        'bbox_mode': BoxMode.XYWH_ABS,
        'category_id': labels[annotation['category_id']],
        'iscrowd': int(is_crowd),
    }
    if annotation.get('segmentation'):
        instance['segmentation'] = annotation['segmentation']
    elif not is_crowd and not spec.test_mode:
        raise ValueError(no_mask_text(annotation, file_name, spec.ann_file))
    return instance


def load_panoptic(spec: DataSpec) -> Loaded:
    """Load a COCO panoptic JSON; see `CocoPanoptic` of the mm data sets for rules and errors."""
    path, folder = spec.ann_file, spec.data_prefix.get('seg')
    if not folder and not spec.test_mode:
        raise ValueError(f'data_prefix={dict(spec.data_prefix)} has no "seg": name the folder of the panoptic PNGs')
    if folder and not osp.isdir(folder):
        raise FileNotFoundError(
            f'data_prefix["seg"]: folder {folder} does not exist; it should hold the panoptic PNGs '
            '(of COCO: unpack panoptic_train2017.zip inside its annotations)'
        )
    data = read_panoptic_json(path, annotated=bool(folder))
    segments = [segment for one in data['annotations'] for segment in one['segments_info']]
    categories = categories_by_name(data, spec.classes, path, {segment['category_id'] for segment in segments})
    check_things_first(categories, dict(spec.metainfo), path)
    labels = {category['id']: label for label, category in enumerate(categories)}
    num_things = len(spec.metainfo['thing_classes'])
    _report_crowds([bool(segment.get('iscrowd')) for segment in segments], path)
    annotations: dict[Any, Any] = {annotation['image_id']: annotation for annotation in data['annotations']}
    items = []
    for image in data['images']:
        annotation = annotations.get(image['id'], {'segments_info': []})
        item = _image_item(spec, image)
        if folder:
            item['pan_seg_file_name'] = osp.join(folder, png_name(annotation, image))
        item['segments_info'] = [
            {
                'id': segment['id'],
                'category_id': labels[segment['category_id']],
                'isthing': labels[segment['category_id']] < num_things,
                'iscrowd': int(bool(segment.get('iscrowd', 0))),
            }
            for segment in segments_of_classes(annotation, labels)
        ]
        items.append(item)
    items = _checked(spec, items, lambda item: [bool(one['iscrowd']) for one in item['segments_info']])
    _check_files([item for item in items if item['segments_info']], 'pan_seg_file_name', 'panoptic PNGs', path)
    return items, list(labels)


def load_label_maps(spec: DataSpec) -> Loaded:
    """Load a folder of images and one of label maps; see `LabelFolders` for rules and errors."""
    names = None
    if spec.ann_file:
        try:
            text = read_local(spec.ann_file).decode('utf-8-sig')
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f'list of images {spec.ann_file} does not exist: check data_root and ann_file'
            ) from error
        names = names_of_list(text, spec.ann_file)
    folders = LabelFolders(spec.data_prefix, spec.img_suffix, spec.seg_map_suffix, spec.test_mode)
    pairs, warning = folders.pairs(spec.kind, names, spec.ann_file)
    _warn(warning)
    items = []
    for image, label_map in pairs:
        item: Item = {'file_name': image, 'image_id': osp.splitext(osp.relpath(image, spec.data_prefix['img_path']))[0]}
        if label_map is not None:
            item['sem_seg_file_name'] = label_map
        if spec.label_ids is not None:
            item['label_ids'] = tuple(spec.label_ids)
        if spec.reduce_zero_label:
            item['reduce_zero_label'] = True
        items.append(item)
    return items, []


def load_folders(spec: DataSpec) -> Loaded:
    """Load ADE20K or Cityscapes from their folders; see `FolderLayout` for rules and errors."""
    layout, keys = (
        (ade20k.FOLDERS, {'seg_map_path': 'sem_seg_file_name', 'instance_map_path': 'instance_map_file_name'})
        if spec.kind.startswith('ADE20K')
        else (cityscapes.FOLDERS, {'seg_map_path': 'instance_ids_file_name'})
    )
    if spec.img_suffix is not None:
        layout = FolderLayout(spec.img_suffix, layout.annotations, layout.source)
    found, warning = layout.items(spec.data_prefix, spec.test_mode, spec.kind)
    _warn(warning)
    items = [
        {
            'file_name': item['img_path'],
            'image_id': item['img_id'],
            'category_ids': tuple(spec.metainfo['category_ids']),
            **{ours: item[theirs] for theirs, ours in keys.items() if theirs in item},
        }
        for item in found
    ]
    return items, []


# Types of the mm configs: task, and function that loads them.
KINDS: dict[str, tuple[str, Callable[[DataSpec], Loaded]]] = {
    'CocoPanoptic': ('panoptic', load_panoptic),
    'CocoInstance': ('instance', load_instances),
    'ADE20KPanoptic': ('panoptic', load_folders),
    'ADE20KInstance': ('instance', load_folders),
    'CityscapesPanoptic': ('panoptic', load_folders),
    'CityscapesInstance': ('instance', load_folders),
    'ADE20KDataset': ('semantic', load_label_maps),
    'CityscapesDataset': ('semantic', load_label_maps),
    'COCOStuffDataset': ('semantic', load_label_maps),
    'LabelMaps': ('semantic', load_label_maps),
}


def _image_item(spec: DataSpec, image: Mapping[str, Any]) -> Item:
    return {
        'file_name': osp.join(spec.data_prefix['img'], image['file_name']),
        'image_id': image['id'],
        'height': int(image['height']),
        'width': int(image['width']),
        'ann_file': spec.ann_file,
    }


def _checked(spec: DataSpec, items: list[Item], crowd_flags: Callable[[Item], list[bool]]) -> list[Item]:
    """Drop images that cannot be trained on, and check that the files of the others exist."""
    if not spec.test_mode and spec.filter_cfg:
        items = images_to_train_on(items, spec.filter_cfg, crowd_flags, spec.ann_file)
    _check_files(items, 'file_name', 'images', spec.ann_file)
    return items


def _check_files(items: Sequence[Item], key: str, what: str, ann_file: str) -> None:
    paths = [item[key] for item in items if key in item]
    text = missing_text(paths, missing_among(paths, local_names_in, os.path.exists), what, ann_file)
    if text:
        raise FileNotFoundError(text)


def _report_crowds(flags: Sequence[bool], path: str) -> None:
    text, is_many = crowds_text(flags, path)
    if text:
        logger.log(logging.WARNING if is_many else logging.INFO, text)


def _warn(text: str) -> None:
    if text:
        logger.warning(text)
