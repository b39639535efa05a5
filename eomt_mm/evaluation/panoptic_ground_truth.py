"""Where panoptic ground truth comes from: files in the COCO panoptic format, or the samples themselves."""

import os
from collections.abc import Collection, Mapping
from functools import partial
from typing import Any

import numpy as np

from eomt_mm.datasets.coco_json import AnnotationFile, categories_by_name
from eomt_mm.datasets.segment_maps import check_size
from eomt_mm.evaluation.image_metric import WarnOnce
from eomt_mm.evaluation.panoptic_image import ImageSegments, listed_segments
from eomt_mm.evaluation.sample_ground_truth import category_ids, name_of, segment_map
from eomt_mm.fileio.result_names import name_below
from eomt_mm.hosts.zip_backend import is_missing_folder, read_file


class SegmentsInFiles:
    """Ground truth from a json and a folder of PNGs; which class is a thing says the json.

    Args:
        file: in the COCO panoptic format.
    """

    def __init__(self, file: AnnotationFile) -> None:
        self.path = file.path
        self.seg_prefix = file.seg_prefix
        self._backend_args = file.backend_args
        self._categories = {'categories': file.content['categories']}
        images = file.content['images']
        self._names = {image['id']: os.path.splitext(image['file_name'])[0] + '.png' for image in images}
        self._sizes = {image['id']: (image['height'], image['width']) for image in images}
        self._segments: dict[Any, np.ndarray] = {}
        self._used: set[int] = set()
        for annotation in file.content['annotations']:
            self._used.update(segment['category_id'] for segment in annotation['segments_info'])
            image_id = annotation['image_id']
            self._segments[image_id] = listed_segments(annotation['segments_info'])
            self._names[image_id] = annotation.get('file_name') or self._names[image_id]

    def check_folder(self) -> None:
        """Checks that there are PNGs: on local disks and in zip files, other backends have no cheap way to ask.

        Raises:
            FileNotFoundError: the folder does not exist.
            ValueError: none is given.
        """
        if not self.seg_prefix:
            raise ValueError(f'seg_prefix={self.seg_prefix}: name the folder of the panoptic PNGs of {self.path}')
        if is_missing_folder(self.seg_prefix, self._backend_args):
            raise FileNotFoundError(f'seg_prefix: folder {self.seg_prefix} does not exist; it holds the panoptic PNGs')

    def categories(self, meta: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The json's, found by the names of the classes; raises ValueError where one is missing."""
        return categories_by_name(self._categories, meta['classes'], self.path, self._used)

    def find(self, sample: Mapping[str, Any], ids: np.ndarray) -> ImageSegments | None:
        """Names the image's PNG, and does not read it; None without annotation.

        Raises:
            ValueError: the image is not in the json, or has another size there.
        """
        name = self.png_name(sample)
        check_size(f'of image {sample["img_id"]} in {self.path}', self._sizes[sample['img_id']], dict(sample))
        segments = self._segments.get(sample['img_id'])
        if segments is None:
            return None
        path = os.path.join(str(self.seg_prefix), name)
        return ImageSegments(path, segments, path, partial(read_file, backend_args=self._backend_args))

    def png_name(self, sample: Mapping[str, Any]) -> str:
        """The name in the json; raises ValueError for an image that is not in there."""
        image_id = sample['img_id']
        if image_id not in self._names:
            raise ValueError(
                f'image {image_id} is not among the {len(self._names)} images of {self.path}: '
                'give the data set and the metric the same ann_file'
            )
        return self._names[image_id]

    def num_missing(self, image_ids: Collection[Any]) -> int:
        """Number of the json's annotated images that are not among ``image_ids``."""
        return len(self._segments.keys() - set(image_ids))


class SegmentsInSamples:
    """Ground truth that the test pipeline loads and packs, see `segment_map`; result files also need ``img_path``.

    Where crowd labels are absent there are no crowds, which is logged once.

    Args:
        img_prefix: folder of the images; names of result files are paths below it.
    """

    def __init__(self, img_prefix: str | None) -> None:
        self._img_prefix = img_prefix
        self._warn_once = WarnOnce()

    def categories(self, meta: Mapping[str, Any]) -> list[dict[str, Any]]:
        """'id', 'name' and 'isthing' of each class: things are ``meta['thing_classes']``.

        Raises:
            ValueError: thing_classes is missing, or does not go with classes and category_ids.
        """
        classes, things = list(meta['classes']), meta.get('thing_classes')
        if things is None:
            raise ValueError(
                'dataset_meta has no "thing_classes": say in metainfo which of the classes are things, or give ann_file'
            )
        unknown = [name for name in things if name not in classes]
        if unknown or len(set(classes)) < len(classes):
            raise ValueError(f'dataset_meta: classes must be unique; thing_classes that are not classes: {unknown}')
        return [
            {'id': id_, 'name': name, 'isthing': int(name in things)}
            for id_, name in zip(category_ids(meta), classes, strict=True)
        ]

    def find(self, sample: Mapping[str, Any], ids: np.ndarray) -> ImageSegments:
        """Takes the sample's map and labels; raises ValueError where they are missing or do not fit each other."""
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
        # Small integers: what goes to a worker process is an eighth.
        id_map = found.ids.astype(np.min_scalar_type(len(labels)), copy=False)
        return ImageSegments(id_map, segments, 'in the sample')

    def png_name(self, sample: Mapping[str, Any]) -> str:
        """That of the image, with its path below ``img_prefix``; raises ValueError for a sample without path."""
        if not sample.get('img_path'):
            raise ValueError(f'image {sample["img_id"]} has no img_path, after which result files are named: pack it')
        return name_below(sample['img_path'], self._img_prefix) + '.png'

    def num_missing(self, image_ids: Collection[Any]) -> int:
        """0: of an image without a sample nothing is known."""
        return 0
