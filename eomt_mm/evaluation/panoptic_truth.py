"""Where panoptic ground truth comes from: files in the COCO panoptic format, or the samples themselves."""

import logging
import os
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import PurePath
from typing import Any, Protocol

import numpy as np
import torch
from mmengine.logging import print_log

from eomt_mm.datasets.coco_json import categories_by_name
from eomt_mm.datasets.coco_panoptic import read_panoptic_json
from eomt_mm.evaluation.panoptic_image import ImageTruth
from eomt_mm.hosts.zip_backend import is_missing_folder, read_file


class PanopticTruth(Protocol):
    """What the metric asks of a source of ground truth. Samples are data samples as plain dicts."""

    def categories(self, meta: Mapping[str, Any]) -> list[dict[str, Any]]:
        """'id', 'name' and 'isthing' of each class, in the order of labels; ``meta`` is the data set's."""

    def find(self, sample: Mapping[str, Any], category_ids: np.ndarray) -> ImageTruth | None:
        """Ground truth of an image, None without annotation; ``category_ids`` (C,) are those of the labels."""

    def png_name(self, sample: Mapping[str, Any]) -> str:
        """Name of the image's PNG among result files."""

    def num_missing(self, image_ids: Collection[Any]) -> int:
        """Number of annotated images that are not among ``image_ids``, as far as the source knows them."""


class TruthInFiles:
    """Ground truth from a json and a folder of PNGs; which class is a thing says the json.

    Args:
        ann_file: json in the COCO panoptic format.
        seg_prefix: folder of its PNGs.
        annotated: whether the json must hold annotations; without them there are only categories and names.
        backend_args: of mmengine's file backend, for json and PNGs.

    Raises:
        FileNotFoundError: json or folder does not exist. Folders are looked for on local disks and in zip files;
            other backends have no cheap way to ask.
        ValueError: the json is not panoptic, or ``seg_prefix`` is missing.
    """

    def __init__(self, ann_file: str, seg_prefix: str | None, annotated: bool, backend_args: dict | None) -> None:
        if annotated:
            _check_folder(ann_file, seg_prefix, backend_args)
        self.ann_file = ann_file
        self.seg_prefix = seg_prefix
        self._read = partial(read_file, backend_args=backend_args)
        data = read_panoptic_json(ann_file, backend_args, annotated=annotated)
        self._categories = {'categories': data['categories']}
        self._names = {image['id']: os.path.splitext(image['file_name'])[0] + '.png' for image in data['images']}
        self._segments: dict[Any, np.ndarray] = {}
        for annotation in data['annotations']:
            image_id = annotation['image_id']
            if image_id in self._names:
                self._segments[image_id] = _listed_segments(annotation['segments_info'])
                self._names[image_id] = annotation.get('file_name') or self._names[image_id]

    def categories(self, meta: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The json's, found by the names of the classes; raises ValueError where one is missing."""
        return categories_by_name(self._categories, meta['classes'], self.ann_file)

    def find(self, sample: Mapping[str, Any], category_ids: np.ndarray) -> ImageTruth | None:
        """Names the image's PNG, and does not read it."""
        name = self.png_name(sample)
        segments = self._segments.get(sample['img_id'])
        if segments is None:
            return None
        path = os.path.join(str(self.seg_prefix), name)
        return ImageTruth(path, segments, path, self._read)

    def png_name(self, sample: Mapping[str, Any]) -> str:
        """The name in the json; raises ValueError for an image that is not in there."""
        image_id = sample['img_id']
        if image_id not in self._names:
            raise ValueError(
                f'image {image_id} is not among the {len(self._names)} images of {self.ann_file}: '
                'give the data set and the metric the same ann_file'
            )
        return self._names[image_id]

    def num_missing(self, image_ids: Collection[Any]) -> int:
        """Number of the json's annotated images that are not among ``image_ids``."""
        return len(self._segments.keys() - set(image_ids))


class TruthInSamples:
    """Ground truth that the test pipeline loads and packs (`PackSegments`).

    A sample holds ``gt_panoptic_seg.segment_ids`` (1, H, W), integers: 0 is void, 1 .. N segments with labels
    ``gt_instances.labels`` (N,), N + 1 .. N + M crowds with labels ``ignored_instances.labels`` (M,); and, for result
    files, ``img_path``. Where crowd labels are absent there are no crowds, which is said once.
    """

    def __init__(self) -> None:
        self._told_of_crowds = False

    def categories(self, meta: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Things are ``meta['thing_classes']``; ids ``meta['category_ids']`` if there, else label + 1.

        Raises:
            ValueError: thing_classes is missing, or one of the three does not go with the others.
        """
        classes, things = list(meta['classes']), meta.get('thing_classes')
        if things is None:
            raise ValueError(
                'dataset_meta has no "thing_classes": say in metainfo which of the classes are things, or give ann_file'
            )
        ids = meta.get('category_ids')
        ids = list(range(1, len(classes) + 1)) if ids is None else [int(id_) for id_ in ids]
        strangers = [name for name in things if name not in classes]
        if strangers or len(set(classes)) < len(classes):
            raise ValueError(f'dataset_meta: classes must be unique; thing_classes that are not classes: {strangers}')
        if len(ids) != len(classes) or len(set(ids)) < len(ids):
            raise ValueError(f'dataset_meta: category_ids={ids}: give each of the {len(classes)} classes its own')
        return [
            {'id': id_, 'name': name, 'isthing': int(name in things)} for id_, name in zip(ids, classes, strict=True)
        ]

    def find(self, sample: Mapping[str, Any], category_ids: np.ndarray) -> ImageTruth:
        """Takes the sample's map and labels; raises ValueError where they are missing or do not fit each other."""
        image = f'image {sample["img_id"]} ({sample.get("img_path")})'
        id_map, labels = _part(sample, 'gt_panoptic_seg', 'segment_ids'), _part(sample, 'gt_instances', 'labels')
        if id_map is None or labels is None:
            raise ValueError(
                f'{image} has no ground truth (gt_panoptic_seg.segment_ids, gt_instances.labels): load annotations in '
                'the test pipeline and pack them with eomt_mm.PackSegments, or give the metric ann_file and seg_prefix'
            )
        crowds = _part(sample, 'ignored_instances', 'labels')
        if crowds is None:
            self._tell_of_crowds()
            crowds = labels[:0]
        ids = id_map.reshape(id_map.shape[-2:])
        every = np.concatenate([labels, crowds]).astype(np.int64)
        if ids.size and not 0 <= ids.min() <= ids.max() <= len(every):
            raise ValueError(
                f'{image}: ids of gt_panoptic_seg are in [{ids.min()}, {ids.max()}], but there are labels of '
                f'{len(labels)} segments and {len(crowds)} crowds: id k needs the k-th label'
            )
        if ((every < 0) | (every >= len(category_ids))).any():
            raise ValueError(f'{image} has labels {every.tolist()}, data set and metric {len(category_ids)} classes')
        is_crowd = np.arange(len(every)) >= len(labels)
        segments = np.stack([np.arange(1, len(every) + 1), category_ids[every], is_crowd], axis=1)
        # Small integers: what goes to a worker process is an eighth.
        return ImageTruth(ids.astype(np.min_scalar_type(len(every)), copy=False), segments, 'in the sample')

    def _tell_of_crowds(self) -> None:
        if not self._told_of_crowds:
            print_log(
                'Samples have no crowd labels (ignored_instances.labels): PQ takes crowds for void. Where the data set '
                'has crowds, load annotations with with_crowds=True',
                logger='current',
                level=logging.WARNING,
            )
        self._told_of_crowds = True

    def png_name(self, sample: Mapping[str, Any]) -> str:
        """Stem of the image's file; raises ValueError for a sample without path."""
        if not sample.get('img_path'):
            raise ValueError(f'image {sample["img_id"]} has no img_path, after which result files are named: pack it')
        return PurePath(sample['img_path']).stem + '.png'

    def num_missing(self, image_ids: Collection[Any]) -> int:
        """0: of an image without a sample nothing is known."""
        return 0


def _check_folder(ann_file: str, seg_prefix: str | None, backend_args: dict | None) -> None:
    if not seg_prefix:
        raise ValueError(f'seg_prefix={seg_prefix}: name the folder of the panoptic PNGs of {ann_file}')
    if is_missing_folder(seg_prefix, backend_args):
        raise FileNotFoundError(f'seg_prefix: folder {seg_prefix} does not exist; it holds the panoptic PNGs')


def _listed_segments(segments_info: Sequence[Mapping[str, Any]]) -> np.ndarray:
    rows = [(segment['id'], segment['category_id'], bool(segment.get('iscrowd'))) for segment in segments_info]
    return np.array(rows, dtype=np.int64).reshape(-1, 3)


def _part(sample: Mapping[str, Any], element: str, key: str) -> np.ndarray | None:
    """``sample[element][key]`` as an array, None where one of them is missing."""
    found = sample.get(element)
    value = None if found is None else found.get(key)
    return value.cpu().numpy() if isinstance(value, torch.Tensor) else value
