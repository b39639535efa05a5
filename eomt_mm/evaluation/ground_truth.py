"""Ground truth for metrics, from an annotation file in one of COCO's formats or from the samples."""

import os
from collections import Counter
from collections.abc import Collection, Mapping
from functools import cached_property, partial
from typing import Any, NamedTuple

import numpy as np

from eomt_mm.annotations.categories import categories_by_name
from eomt_mm.annotations.documents import Instance
from eomt_mm.annotations.masks import areas, normalise, to_rle
from eomt_mm.datasets.coco_json import AnnotationFile
from eomt_mm.datasets.segment_maps import check_size
from eomt_mm.evaluation.ap_counting import TrueInstance, listed_instance, mapped_instances
from eomt_mm.evaluation.image_metric import WarnOnce
from eomt_mm.evaluation.panoptic_image import ImageSegments
from eomt_mm.evaluation.pq_counting import listed_segments
from eomt_mm.evaluation.samples import Sample, categories_of, name_of, part, path_of, segment_map
from eomt_mm.fileio.result_names import name_below
from eomt_mm.hosts.zip_backend import missing_folder, read_file


class ImageInstances(NamedTuple):
    """Ground truth of an image: size (height, width), instances, and origin, for messages."""

    size: tuple[int, int]
    instances: list[TrueInstance]
    origin: str


class JsonSource:
    """Categories and images of an annotation file; ``used`` holds the ids of categories with annotations."""

    def __init__(self, file: AnnotationFile, used: set[Any]) -> None:
        self._used = used
        self.path = file.path
        self._categories = {'categories': file.content['categories']}
        self._sizes = {image['id']: (int(image['height']), int(image['width'])) for image in file.content['images']}

    def categories(self, meta: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Find the categories of the classes by name; raises ValueError if one is missing."""
        return categories_by_name(self._categories, list(meta['classes']), self.path, self._used)

    def size(self, sample: Sample) -> tuple[int, int]:
        """(height, width) of an image; raises ValueError if the JSON lacks it or states another size."""
        image_id = sample['img_id']
        if image_id not in self._sizes:
            raise ValueError(
                f'image {image_id} is not among the {len(self._sizes)} images of {self.path}: '
                'give the data set and the metric the same ann_file'
            )
        check_size(f'of image {image_id} in {self.path}', self._sizes[image_id], dict(sample))
        return self._sizes[image_id]


class InstancesInFile(JsonSource):
    """Instances of a COCO JSON, with its crowds and areas."""

    def __init__(self, file: AnnotationFile) -> None:
        self._annotations: list[Instance] = file.content['annotations']
        super().__init__(file, {annotation['category_id'] for annotation in self._annotations})
        self._maskless: dict[Any, str] = {}  # the first annotation without a mask of each category
        self._warn_once = WarnOnce()
        self._ids: list[int] = []  # the classes whose order was compared last: the same for all images of a metric
        self._is_in_order = True

    @cached_property
    def instances(self) -> dict[Any, list[TrueInstance]]:
        """Instances with masks by image id, labelled with category ids."""
        found: dict[Any, list[TrueInstance]] = {id_: [] for id_ in self._sizes}
        for annotation in self._annotations:
            image_id = annotation['image_id']
            if annotation.get('segmentation') is None:
                whose = f'annotation {annotation.get("id")} of image {image_id}'
                self._maskless.setdefault(annotation['category_id'], whose)
            else:
                found[image_id].append(listed_instance(annotation, self._sizes[image_id], self.path))
        self._annotations = []
        return found

    def check_masks(self, ids: list[int]) -> None:
        """Check the masks of the classes with these category ids.

        Raises:
            ValueError: one of their annotations has none.
        """
        self.instances  # noqa: B018  finds those without a mask
        if found := [self._maskless[id_] for id_ in ids if id_ in self._maskless]:
            raise ValueError(
                f'{self.path}: {found[0]} has no "segmentation": mask AP needs masks, not boxes only: add it or remove '
                'the annotation'
            )

    def find(self, sample: Sample, ids: list[int]) -> ImageInstances:
        """Find the instances of an image that belong to the classes with these category ids.

        Raises:
            ValueError: see `size`; or the sample's labels belong to other classes.
        """
        found = ImageInstances(self.size(sample), self._of_classes(sample['img_id'], ids), f'of {self.path}')
        self._check_order(sample, found.instances, ids)
        return found

    def unseen(self, image_ids: Collection[Any], ids: list[int]) -> dict[Any, list[TrueInstance]]:
        """Instances of the JSON's images that are not among ``image_ids``."""
        return {image_id: self._of_classes(image_id, ids) for image_id in self._sizes.keys() - set(image_ids)}

    def _of_classes(self, image_id: Any, ids: list[int]) -> list[TrueInstance]:
        label_of = {id_: label for label, id_ in enumerate(ids)}
        known = [one for one in self.instances[image_id] if one.label in label_of]
        return [one._replace(label=label_of[one.label]) for one in known]

    def _check_order(self, sample: Sample, instances: list[TrueInstance], ids: list[int]) -> None:
        """Check that the data set, too, takes label k for the k-th class: mmdet's CocoDataset uses the JSON's order."""
        if self._ids != ids:
            self._ids, self._is_in_order = ids, self._stand_in_order(ids)
        if self._is_in_order:
            return
        problem = (
            f"classes stand in another order than in {self.path}, by which mmdet's CocoDataset numbers labels: use "
            'eomt_mm.CocoInstance, or, with a model trained so, list metainfo.classes in that order'
        )
        labels = part(sample, 'gt_instances', 'labels')
        if labels is None:
            self._warn_once('order', f'AP takes label k for the k-th class, but {problem}')
        elif Counter(labels.tolist()) - Counter(one.label for one in instances):
            raise ValueError(f'image {sample["img_id"]} has labels of other classes than its annotations: {problem}')

    def _stand_in_order(self, ids: list[int]) -> bool:
        """Return whether the JSON lists the categories with the names of those with ``ids`` in the same order."""
        categories, chosen = self._categories['categories'], set(ids)
        names = {category['name'] for category in categories if category['id'] in chosen}
        return [category['id'] for category in categories if category['name'] in names] == ids


class InstancesInSamples:
    """Instances that the test pipeline loads and packs, in one of two forms; areas are pixel counts of the masks.

    - A map of segments (`segment_map`). Segments whose label is not below the number of classes are ignored.
    - mmdet's ``instances``, dicts with bbox_label, mask (polygons or run lengths) and ignore_flag (1 for a crowd), and
      ``ori_shape`` (height, width).
    """

    def categories(self, meta: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Categories of the classes; see `categories_of`."""
        return categories_of(meta)

    def find(self, sample: Sample, ids: list[int]) -> ImageInstances:
        """Find the instances of an image; raises ValueError if they are missing or inconsistent."""
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


def _mapped_instances(sample: Sample) -> ImageInstances:
    """Convert a map of segments to instances; labels may exceed the number of classes."""
    found = segment_map(sample)
    if found is None:
        raise ValueError(
            f'{name_of(sample)} has an id map without gt_instances.labels: pack both with eomt_mm.PackSegments'
        )
    height, width = found.ids.shape
    return ImageInstances((height, width), mapped_instances(found.ids, found.labels, found.is_crowd), 'in the sample')


def _packed_instances(sample: Sample) -> ImageInstances:
    """Convert mmdet's ``instances`` to instances."""
    image = name_of(sample)
    if 'ori_shape' not in sample:
        raise ValueError(f'{image} has instances but no ori_shape: pack it (meta_keys of PackDetInputs)')
    size = (int(sample['ori_shape'][0]), int(sample['ori_shape'][1]))
    instances = []
    for number, one in enumerate(sample['instances']):
        if not one.get('mask'):
            raise ValueError(f'{image}: instance {number} has no mask: mask AP needs annotations with "segmentation"')
        mask = normalise(one['mask'], size, f'{image}, instance {number}')
        if mask is None:  # training drops it, too
            continue
        rle = to_rle(mask, size)
        crowd = bool(one.get('ignore_flag', 0))
        instances.append(TrueInstance(int(one['bbox_label']), rle, float(areas([rle])[0]), crowd))
    return ImageInstances(size, instances, 'in the sample')


class SegmentsInFiles(JsonSource):
    """Segments of a JSON in the COCO panoptic format and its folder of PNGs."""

    def __init__(self, file: AnnotationFile) -> None:
        annotations = file.content['annotations']
        super().__init__(file, {segment['category_id'] for one in annotations for segment in one['segments_info']})
        self.seg_prefix = file.seg_prefix
        self._backend_args = file.backend_args
        self._names = {
            image['id']: os.path.splitext(image['file_name'])[0] + '.png' for image in file.content['images']
        }
        self._segments: dict[Any, np.ndarray] = {}
        for annotation in annotations:
            image_id = annotation['image_id']
            self._segments[image_id] = listed_segments(annotation['segments_info'])
            self._names[image_id] = annotation.get('file_name') or self._names[image_id]

    def check_folder(self) -> None:
        """Check that the folder of PNGs exists, on local disks and in zip files: for other backends this is not cheap.

        Raises:
            FileNotFoundError: the folder does not exist.
            ValueError: no folder is given.
        """
        if not self.seg_prefix:
            raise ValueError(f'seg_prefix={self.seg_prefix}: name the folder of the panoptic PNGs of {self.path}')
        if missing := missing_folder(self.seg_prefix, self._backend_args):
            raise FileNotFoundError(f'seg_prefix: {missing}; it should hold the panoptic PNGs')

    def find(self, sample: Sample, ids: np.ndarray) -> ImageSegments | None:
        """Find the segments of an image without reading its PNG; None without an annotation. Errors: see `size`."""
        name, segments = self.png_name(sample), self._segments.get(sample['img_id'])
        if segments is None:
            return None
        path = os.path.join(str(self.seg_prefix), name)
        return ImageSegments(path, segments, path, partial(read_file, backend_args=self._backend_args))

    def png_name(self, sample: Sample) -> str:
        """Name of the image's PNG in the JSON; errors: see `size`."""
        self.size(sample)
        return self._names[sample['img_id']]

    def unseen(self, image_ids: Collection[Any]) -> set[Any]:
        """Ids of the JSON's annotated images that are not among ``image_ids``."""
        return self._segments.keys() - set(image_ids)


class SegmentsInSamples:
    """Segments that the test pipeline loads and packs; see `segment_map`.

    Args:
        img_prefix: folder of the images; PNGs are named after the image's path relative to it.
    """

    def __init__(self, img_prefix: str | None) -> None:
        self._img_prefix = img_prefix
        self._warn_once = WarnOnce()

    def categories(self, meta: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Categories of the classes (`categories_of`) with 'isthing', set for ``meta['thing_classes']``.

        Raises:
            ValueError: thing_classes is missing, or inconsistent with classes and category_ids.
        """
        classes, things = list(meta['classes']), meta.get('thing_classes')
        if things is None:
            raise ValueError(
                'dataset_meta has no "thing_classes": say in metainfo which of the classes are things, or give ann_file'
            )
        unknown = [name for name in things if name not in classes]
        if unknown or len(set(classes)) < len(classes):
            raise ValueError(f'dataset_meta: classes must be unique; thing_classes that are not classes: {unknown}')
        return [{**category, 'isthing': int(category['name'] in things)} for category in categories_of(meta)]

    def find(self, sample: Sample, ids: np.ndarray) -> ImageSegments:
        """Find the segments of an image; raises ValueError if they are missing or inconsistent."""
        found = segment_map(sample)
        if found is None:
            raise ValueError(
                f'{name_of(sample)} has no ground truth (gt_panoptic_seg.segment_ids, gt_instances.labels): load '
                'annotations in the test pipeline and pack them with eomt_mm.PackSegments, or give the metric ann_file '
                'and seg_prefix'
            )
        if not found.states_crowds:
            self._warn_once(
                'crowds',
                'Samples have no crowd labels (ignored_instances.labels): PQ takes crowds for void. Where the data set '
                'has crowds, load annotations with with_crowds=True',
            )
        labels = found.labels
        if ((labels < 0) | (labels >= len(ids))).any():
            raise ValueError(f'{name_of(sample)} has labels {labels.tolist()}, data set and metric {len(ids)} classes')
        segments = np.stack([np.arange(1, len(labels) + 1), ids[labels], found.is_crowd], axis=1)
        # The smallest integer type: an eighth of the bytes to send to a worker process.
        id_map = found.ids.astype(np.min_scalar_type(len(labels)), copy=False)
        return ImageSegments(id_map, segments, 'in the sample')

    def png_name(self, sample: Sample) -> str:
        """Name of the image's PNG, derived from the image's path."""
        return name_below(path_of(sample), self._img_prefix) + '.png'
