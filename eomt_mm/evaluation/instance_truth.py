"""Where the ground truth of mask AP comes from: a COCO json, or the samples themselves."""

import logging
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple, Protocol, cast

import numpy as np
import torch
from mmengine.logging import print_log

from eomt_mm.annotations.documents import Instance
from eomt_mm.annotations.masks import RLE, Rings, areas, normalise, to_rle
from eomt_mm.datasets.coco_json import read_instances_json
from eomt_mm.evaluation.ap_counting import TrueInstance, encode_segments


class ImageTruth(NamedTuple):
    """Ground truth of an image: size (height, width), its instances, and origin, for messages."""

    size: tuple[int, int]
    instances: list[TrueInstance]
    origin: str


class InstanceTruth(Protocol):
    """What the metric asks of a source of ground truth. Samples are data samples as plain dicts."""

    def category_ids(self, meta: Mapping[str, Any]) -> list[int]:
        """Category id in result files of each class, in the order of labels; ``meta`` is the data set's."""

    def load(self, sample: Mapping[str, Any], category_ids: list[int]) -> ImageTruth:
        """Ground truth of an image, of the classes with these ids."""

    def unseen(self, image_ids: Collection[Any], category_ids: list[int]) -> Iterator[tuple[Any, ImageTruth]]:
        """Id and ground truth of the images that are not among ``image_ids``, as far as the source knows them."""


class TruthInFile:
    """Ground truth from a COCO json, whose crowds and areas count as they are.

    Annotations are numbered anew: pycocotools takes a match with the annotation of id 0 for none.

    Args:
        ann_file: json in the COCO format with "segmentation" in its annotations.
        annotated: whether annotations are read; without, images and categories suffice (test sets).
        backend_args: of mmengine's file backend.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no json, a panoptic one, or a mask in it cannot be decoded.
    """

    def __init__(self, ann_file: str, annotated: bool = True, backend_args: dict | None = None) -> None:
        data = read_instances_json(ann_file, annotated, backend_args)
        self.ann_file = ann_file
        self._categories: Any = data['categories']
        self._told_of_order = False
        self._sizes = {image['id']: (int(image['height']), int(image['width'])) for image in data['images']}
        # Per image, with category ids for labels: which classes there are is not known yet.
        self._instances: dict[Any, list[TrueInstance]] = {id_: [] for id_ in self._sizes}
        for annotation in data['annotations'] if annotated else ():
            image_id = annotation['image_id']
            self._instances[image_id].append(_listed_instance(annotation, self._sizes[image_id], ann_file))

    def category_ids(self, meta: Mapping[str, Any]) -> list[int]:
        """Found by the names of the classes; raises ValueError where one is missing."""
        classes, names = list(meta['classes']), [category['name'] for category in self._categories]
        missing = [name for name in classes if name not in names]
        if missing:
            raise ValueError(
                f'{len(missing)} of the {len(classes)} classes are not among the {len(names)} categories of '
                f'{self.ann_file}. Missing: {missing}. There: {names}. Pass metainfo=dict(classes=...) with the names '
                'of the file'
            )
        if len(set(names)) < len(names) or len(set(classes)) < len(classes):
            raise ValueError(f'{self.ann_file}: names of the {len(names)} categories and of the classes must be unique')
        return [self._categories[names.index(name)]['id'] for name in classes]

    def load(self, sample: Mapping[str, Any], category_ids: list[int]) -> ImageTruth:
        """Raises ValueError for an image that is not in the json, or whose labels are those of other classes."""
        image_id = sample['img_id']
        if image_id not in self._sizes:
            raise ValueError(
                f'image {image_id} is not among the {len(self._sizes)} images of {self.ann_file}: '
                'give the data set and the metric the same ann_file'
            )
        truth = self._truth(image_id, category_ids)
        self._check_order(sample, truth, category_ids)
        return truth

    def unseen(self, image_ids: Collection[Any], category_ids: list[int]) -> Iterator[tuple[Any, ImageTruth]]:
        """The json's other images."""
        for image_id in self._sizes.keys() - set(image_ids):
            yield image_id, self._truth(image_id, category_ids)

    def _truth(self, image_id: Any, category_ids: list[int]) -> ImageTruth:
        label_of = {category_id: label for label, category_id in enumerate(category_ids)}
        known = [one for one in self._instances[image_id] if one.label in label_of]
        instances = [one._replace(label=label_of[one.label]) for one in known]
        return ImageTruth(self._sizes[image_id], instances, f'of {self.ann_file}')

    def _check_order(self, sample: Mapping[str, Any], truth: ImageTruth, category_ids: list[int]) -> None:
        """Whether label k is the k-th class for the data set too; mmdet's CocoDataset takes the order of the json."""
        in_file = [category['id'] for category in self._categories if category['id'] in set(category_ids)]
        if in_file == category_ids:
            return
        problem = (
            f"classes stand in another order than in {self.ann_file}, by which mmdet's CocoDataset numbers labels: use "
            'eomt_mm.CocoInstance, or, with a model trained so, list metainfo.classes in that order'
        )
        labels = part(sample, 'gt_instances', 'labels')
        if labels is not None and Counter(labels.tolist()) - Counter(one.label for one in truth.instances):
            raise ValueError(f'image {sample["img_id"]} has labels of other classes than its annotations: {problem}')
        if labels is None and not self._told_of_order:
            print_log(f'AP takes label k for the k-th class, but {problem}', logger='current', level=logging.WARNING)
            self._told_of_order = True


class TruthInSamples:
    """Ground truth that the test pipeline loads and packs, in one of two forms.

    An id map (`PackSegments`): ``gt_panoptic_seg.segment_ids`` (1, H, W), integers: 0 is void, 1 .. N segments with
    labels ``gt_instances.labels`` (N,), N + 1 .. N + M crowds with labels ``ignored_instances.labels`` (M,), of which
    there are none where these are absent. Labels that are not below the number of classes do not exist.

    Or mmdet's ``instances``, a list of dicts with bbox_label, mask (polygons or run lengths) and ignore_flag (1 for a
    crowd), together with ``ori_shape`` (height, width).

    Areas are those of the masks.
    """

    def category_ids(self, meta: Mapping[str, Any]) -> list[int]:
        """``meta['category_ids']``, label + 1 where not given; raises ValueError where they do not fit the classes."""
        count, ids = len(meta['classes']), meta.get('category_ids')
        ids = list(range(1, count + 1)) if ids is None else [int(id_) for id_ in ids]
        if len(ids) != count or len(set(ids)) < count:
            raise ValueError(f'dataset_meta: category_ids={ids}: give each of the {count} classes its own')
        return ids

    def load(self, sample: Mapping[str, Any], category_ids: list[int]) -> ImageTruth:
        """Raises ValueError where there is no ground truth, or its parts do not fit each other."""
        image = f'image {sample["img_id"]} ({sample.get("img_path")})'
        if part(sample, 'gt_panoptic_seg', 'segment_ids') is not None:
            truth = _mapped_truth(sample, image)
        elif sample.get('instances') is not None:
            truth = _packed_truth(sample, image)
        else:
            raise ValueError(
                f'{image} has no ground truth: load annotations in the test pipeline and pack them with '
                "eomt_mm.PackSegments or, for mmdet's data sets, with 'instances' among the meta_keys of "
                'PackDetInputs; or give the metric ann_file'
            )
        known = [one for one in truth.instances if one.label < len(category_ids)]
        return truth._replace(instances=known)

    def unseen(self, image_ids: Collection[Any], category_ids: list[int]) -> Iterator[tuple[Any, ImageTruth]]:
        """None: of an image without a sample nothing is known."""
        return iter(())


def _listed_instance(annotation: Instance, size: tuple[int, int], path: str) -> TrueInstance:
    """An annotation of a json, with the category id for a label."""
    mask, area = annotation.get('segmentation'), annotation.get('area')
    if mask is None:
        raise ValueError(
            f'{path}: annotation {annotation.get("id")} of image {annotation["image_id"]} has no "segmentation": mask '
            'AP needs masks, not boxes only'
        )
    rle = to_rle(cast(Rings | RLE, mask), size)  # the reader has normalised it
    return TrueInstance(
        annotation['category_id'],  # type: ignore[arg-type]  # an id in place of a label
        rle,
        float(areas([rle])[0]) if area is None else area,
        bool(annotation.get('iscrowd')),
    )


def _mapped_truth(sample: Mapping[str, Any], image: str) -> ImageTruth:
    """From an id map; labels may be those of other classes."""
    id_map, labels = part(sample, 'gt_panoptic_seg', 'segment_ids'), part(sample, 'gt_instances', 'labels')
    assert id_map is not None
    if labels is None:
        raise ValueError(f'{image} has an id map without gt_instances.labels: pack both with eomt_mm.PackSegments')
    crowds = part(sample, 'ignored_instances', 'labels')
    height, width = id_map.shape[-2:]
    ids = id_map.reshape(height, width)
    every = labels.tolist() + ([] if crowds is None else crowds.tolist())
    if ids.size and not 0 <= ids.min() <= ids.max() <= len(every):
        raise ValueError(
            f'{image}: ids of gt_panoptic_seg are in [{ids.min()}, {ids.max()}], but there are labels of '
            f'{len(every)} segments and crowds: id k needs the k-th label'
        )
    rles = encode_segments(ids, len(every))
    areas = np.bincount(ids.ravel(), minlength=len(every) + 1)[1:].tolist()
    instances = [
        TrueInstance(label, rle, area, number >= len(labels))
        for number, (label, rle, area) in enumerate(zip(every, rles, areas, strict=True))
    ]
    return ImageTruth((height, width), instances, 'in the sample')


def _packed_truth(sample: Mapping[str, Any], image: str) -> ImageTruth:
    """From mmdet's instances."""
    if 'ori_shape' not in sample:
        raise ValueError(f'{image} has instances but no ori_shape: pack it (meta_keys of PackDetInputs)')
    size = (int(sample['ori_shape'][0]), int(sample['ori_shape'][1]))
    instances = []
    for number, one in enumerate(sample['instances']):
        if not one.get('mask'):
            raise ValueError(f'{image}: instance {number} has no mask: mask AP needs annotations with "segmentation"')
        mask = normalise(one['mask'], size, f'{image}, instance {number}')
        if mask is None:  # left out in training too
            continue
        rle = to_rle(mask, size)
        crowd = bool(one.get('ignore_flag', 0))
        instances.append(TrueInstance(int(one['bbox_label']), rle, float(areas([rle])[0]), crowd))
    return ImageTruth(size, instances, 'in the sample')


def part(sample: Mapping[str, Any], element: str, key: str) -> np.ndarray | None:
    """``sample[element][key]`` as an array, None where one of them is missing."""
    found = sample.get(element)
    value = None if found is None else found.get(key)
    return value.cpu().numpy() if isinstance(value, torch.Tensor) else value
