"""Where the ground truth of mask AP comes from: a COCO json, or the samples themselves."""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from functools import cached_property
from typing import Any, NamedTuple, cast

import numpy as np

from eomt_mm.annotations.documents import Instance
from eomt_mm.annotations.masks import RLE, Rings, areas, normalise, to_rle
from eomt_mm.datasets.coco_json import AnnotationFile, categories_by_name
from eomt_mm.datasets.segment_maps import check_size
from eomt_mm.evaluation.ap_counting import TrueInstance, encode_segments
from eomt_mm.evaluation.image_metric import WarnOnce
from eomt_mm.evaluation.sample_ground_truth import category_ids, name_of, part, segment_map


class ImageInstances(NamedTuple):
    """Ground truth of an image: size (height, width), its instances, and origin, for messages."""

    size: tuple[int, int]
    instances: list[TrueInstance]
    origin: str


class InstancesInFile:
    """Ground truth from a COCO json, with its crowds and areas.

    Annotations are numbered anew: pycocotools takes a match with the annotation of id 0 for none.

    Args:
        file: in the COCO format with "segmentation" in its annotations.
    """

    def __init__(self, file: AnnotationFile) -> None:
        self.path = file.path
        self._categories: list[dict[str, Any]] = file.content['categories']
        self._sizes = {image['id']: (int(image['height']), int(image['width'])) for image in file.content['images']}
        self._annotations: list[Instance] = file.content['annotations']
        self._used = {annotation['category_id'] for annotation in self._annotations}
        self._warn_once = WarnOnce()

    @cached_property
    def instances(self) -> dict[Any, list[TrueInstance]]:
        """Per image, with category ids for labels; raises ValueError for an annotation without mask."""
        found: dict[Any, list[TrueInstance]] = {id_: [] for id_ in self._sizes}
        for annotation in self._annotations:
            image_id = annotation['image_id']
            found[image_id].append(_listed_instance(annotation, self._sizes[image_id], self.path))
        self._annotations = []
        return found

    def category_ids(self, meta: Mapping[str, Any]) -> list[int]:
        """Found by the names of the classes; raises ValueError where one is missing."""
        found = categories_by_name({'categories': self._categories}, list(meta['classes']), self.path, self._used)
        return [category['id'] for category in found]

    def size(self, sample: Mapping[str, Any]) -> tuple[int, int]:
        """(height, width) of an image; raises ValueError for one that is not in the json."""
        image_id = sample['img_id']
        if image_id not in self._sizes:
            raise ValueError(
                f'image {image_id} is not among the {len(self._sizes)} images of {self.path}: '
                'give the data set and the metric the same ann_file'
            )
        size = self._sizes[image_id]
        check_size(f'of image {image_id} in {self.path}', size, dict(sample))
        return size

    def find(self, sample: Mapping[str, Any], ids: list[int]) -> ImageInstances:
        """Instances of an image, of the classes with these category ids.

        Raises:
            ValueError: the image is not in the json, or its labels are those of other classes.
        """
        found = ImageInstances(self.size(sample), self._of_classes(sample['img_id'], ids), f'of {self.path}')
        self._check_order(sample, found.instances, ids)
        return found

    def unseen(self, image_ids: Collection[Any], ids: list[int]) -> Iterator[tuple[Any, list[TrueInstance]]]:
        """Id and instances of the json's images that are not among ``image_ids``."""
        for image_id in self._sizes.keys() - set(image_ids):
            yield image_id, self._of_classes(image_id, ids)

    def _of_classes(self, image_id: Any, ids: list[int]) -> list[TrueInstance]:
        label_of = {id_: label for label, id_ in enumerate(ids)}
        known = [one for one in self.instances[image_id] if one.label in label_of]
        return [one._replace(label=label_of[one.label]) for one in known]

    def _check_order(self, sample: Mapping[str, Any], instances: list[TrueInstance], ids: list[int]) -> None:
        """Whether label k is the k-th class for the data set too; mmdet's CocoDataset takes the order of the json."""
        names = {category['name'] for category in self._categories if category['id'] in set(ids)}
        in_file = [category['id'] for category in self._categories if category['name'] in names]
        if in_file == ids:
            return
        problem = (
            f"classes stand in another order than in {self.path}, by which mmdet's CocoDataset numbers labels: use "
            'eomt_mm.CocoInstance, or, with a model trained so, list metainfo.classes in that order'
        )
        labels = part(sample, 'gt_instances', 'labels')
        if labels is not None and Counter(labels.tolist()) - Counter(one.label for one in instances):
            raise ValueError(f'image {sample["img_id"]} has labels of other classes than its annotations: {problem}')
        if labels is None:
            self._warn_once('order', f'AP takes label k for the k-th class, but {problem}')


class InstancesInSamples:
    """Ground truth that the test pipeline loads and packs, in one of two forms.

    A map of segments (`segment_map`), in which labels that are not below the number of classes do not exist. Or mmdet's
    ``instances``, a list of dicts with bbox_label, mask (polygons or run lengths) and ignore_flag (1 for a crowd),
    together with ``ori_shape`` (height, width).

    Areas are those of the masks.
    """

    def category_ids(self, meta: Mapping[str, Any]) -> list[int]:
        """See :func:`~eomt_mm.evaluation.sample_ground_truth.category_ids`."""
        return category_ids(meta)

    def find(self, sample: Mapping[str, Any], ids: list[int]) -> ImageInstances:
        """Raises ValueError where there is no ground truth, or its parts do not fit each other."""
        if part(sample, 'gt_panoptic_seg', 'segment_ids') is not None:
            found = _mapped_instances(sample)
        elif sample.get('instances') is not None:
            found = _packed_instances(sample)
        else:
            raise ValueError(
                f'{name_of(sample)} has no ground truth: load annotations in the test pipeline and pack them with '
                "eomt_mm.PackSegments or, for mmdet's data sets, with 'instances' among the meta_keys of "
                'PackDetInputs; or give the metric ann_file'
            )
        return found._replace(instances=[one for one in found.instances if one.label < len(ids)])

    def unseen(self, image_ids: Collection[Any], ids: list[int]) -> Iterator[tuple[Any, list[TrueInstance]]]:
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


def _mapped_instances(sample: Mapping[str, Any]) -> ImageInstances:
    """From a map of segments; labels may be those of other classes."""
    found = segment_map(sample)
    if found is None:
        raise ValueError(
            f'{name_of(sample)} has an id map without gt_instances.labels: pack both with eomt_mm.PackSegments'
        )
    rles = encode_segments(found.ids, len(found.labels))
    pixels = np.bincount(found.ids.ravel(), minlength=len(found.labels) + 1)[1:].tolist()
    columns = (found.labels.tolist(), rles, pixels, found.is_crowd.tolist())
    height, width = found.ids.shape
    return ImageInstances((height, width), list(map(TrueInstance, *columns)), 'in the sample')


def _packed_instances(sample: Mapping[str, Any]) -> ImageInstances:
    """From mmdet's instances."""
    image = name_of(sample)
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
    return ImageInstances(size, instances, 'in the sample')
