"""Data sets in the COCO panoptic format: a JSON and a folder of PNGs (https://cocodataset.org/#format-data)."""

import os.path as osp
from typing import Any

from mmdet.datasets import CocoPanopticDataset

from eomt_mm.annotations.categories import (
    categories_by_name,
    check_things_first,
    png_name,
    repeated_stuff_text,
    segments_of_classes,
)
from eomt_mm.annotations.documents import PanopticFile, read_panoptic
from eomt_mm.datasets.coco_json import (
    JsonDataset,
    PanopticAnnotations,
    read_annotation_file,
    report_categories,
    report_crowds,
)
from eomt_mm.datasets.file_listing import check_files, picked, warn, warn_of_repeated
from eomt_mm.hosts.zip_backend import missing_folder
from eomt_mm.registry import DATASETS


def read_panoptic_json(path: str, backend_args: dict | None = None, annotated: bool = True) -> PanopticFile:
    """Read and check an annotation file in the COCO panoptic format.

    Args:
        path: of the JSON.
        backend_args: arguments of mmengine's file backend.
        annotated: require annotations; otherwise images and categories are enough, as in the files of test sets.

    Returns:
        content of the file with 'images', 'categories' and 'annotations' (may be empty unless ``annotated``).

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not JSON, is an instances JSON, or has invalid entries.
    """
    return read_panoptic(read_annotation_file(path, backend_args), path, annotated=annotated)


@DATASETS.register_module()
class CocoPanoptic(JsonDataset, CocoPanopticDataset):
    """COCO-format panoptic segments: mmdet's data set, with the filter rules of the published training.

    Differences from the parent:

    - Crowds are marked as crowds instead of being turned into stuff.
    - Images that contain only stuff are kept in training.
    - Label k is the k-th of ``metainfo['classes']``, whatever the order in the JSON.
    - Problems with the files are reported at build time.

    Segments of categories that are not among the classes are void.

    Arguments are the parent's. ``metainfo`` holds classes (things first), thing_classes, stuff_classes and palette, by
    default COCO's 133 classes. ``filter_cfg`` (training only): ``filter_empty_gt`` drops images without any non-crowd
    segment, ``min_size`` drops images whose shorter side is below it (pixels). In test mode ``data_prefix['seg']`` may
    be omitted; the JSON then needs no annotations (test sets). The metric reads the JSON from
    ``metainfo['annotation_file']``.

    An item holds img_path, img_id, seg_map_path (None without ``data_prefix['seg']``), height, width (pixels),
    instances (things, crowds with ignore_flag 1), segments_info: per segment id (of the PNG), category (label),
    is_thing (of its category, for crowds too) and iscrowd, and other_ids: of segments of other categories, if any.

    Raises:
        FileNotFoundError: the JSON, the folder of PNGs, an image or a PNG does not exist.
        ValueError: the JSON does not hold panoptic annotations of these classes, or no image is left to train on.
    """

    def load_data_list(self) -> list[dict[str, Any]]:
        """Read the annotation file; see the class."""
        seg_prefix = self.data_prefix.get('seg')
        if not seg_prefix and not self.test_mode:
            raise ValueError(f'data_prefix={self.data_prefix} has no "seg": name the folder of the panoptic PNGs')
        if seg_prefix and (missing := missing_folder(seg_prefix, self.backend_args)):
            raise FileNotFoundError(
                f'data_prefix["seg"]: {missing}; it should hold the panoptic PNGs '
                '(of COCO: unpack panoptic_train2017.zip inside its annotations)'
            )
        data = read_panoptic_json(self.ann_file, self.backend_args, annotated=bool(seg_prefix))
        images = {image['id']: image for image in data['images']}
        for one in data['annotations']:  # the metric reads the same entries
            one['file_name'] = png_name(one, images[one['image_id']], self.seg_map_suffix)
        metainfo = self.metainfo
        used = {segment['category_id'] for one in data['annotations'] for segment in one['segments_info']}
        categories = categories_by_name(data, metainfo['classes'], self.ann_file, used)
        check_things_first(categories, metainfo, self.ann_file)
        self.cat_ids = [category['id'] for category in categories]
        self.cat2label = {category_id: label for label, category_id in enumerate(self.cat_ids)}
        if self.test_mode:
            file = PanopticAnnotations(self.ann_file, data, seg_prefix, self.backend_args)
            self._metainfo['annotation_file'] = file
        report_categories(data, categories, used, self.ann_file, not self.test_mode)
        self._texts = {'text': metainfo['thing_classes'], 'stuff_text': metainfo['stuff_classes']}
        segments = (segment for annotation in data['annotations'] for segment in annotation['segments_info'])
        report_crowds((bool(segment.get('iscrowd')) for segment in segments), self.ann_file)
        annotations = {annotation['image_id']: annotation for annotation in data['annotations']}
        items = [
            self.parse_data_info(
                {
                    'raw_img_info': {**image, 'img_id': image['id']},
                    'raw_ann_info': annotations.get(image['id'], {'segments_info': []}),
                }
            )
            for image in data['images']
        ]
        warn(repeated_stuff_text(items, self.ann_file))
        return items

    def parse_data_info(self, raw_data_info: dict[str, Any]) -> dict[str, Any]:
        """Convert the JSON entries of an image to an item.

        Args:
            raw_data_info: ``raw_img_info``, an entry of 'images' with ``img_id``; ``raw_ann_info``, the entry of
                'annotations' of this image (the parent takes the list of its segments here).

        Returns:
            the item, see the class.
        """
        image, annotation = raw_data_info['raw_img_info'], raw_data_info['raw_ann_info']
        name = png_name(annotation, image, self.seg_map_suffix)
        seg_prefix = self.data_prefix.get('seg')
        item = {
            'img_path': osp.join(self.data_prefix['img'], image['file_name']),
            'img_id': image['img_id'],
            'seg_map_path': osp.join(seg_prefix, name) if seg_prefix else None,
            'height': image['height'],
            'width': image['width'],
        }
        if self.return_classes:
            item.update(self._texts, custom_entities=True)
        segments = segments_of_classes(annotation, self.cat2label)
        item['segments_info'] = [self._segment(segment) for segment in segments]
        if len(segments) < len(annotation['segments_info']):
            item['other_ids'] = [
                one['id'] for one in annotation['segments_info'] if one['category_id'] not in self.cat2label
            ]
        item['instances'] = [
            self._instance(raw, segment)
            for raw, segment in zip(segments, item['segments_info'], strict=True)
            if segment['is_thing'] and raw.get('bbox')
        ]
        return item

    def _segment(self, raw: dict[str, Any]) -> dict[str, Any]:
        label = self.cat2label[raw['category_id']]
        is_thing = label < len(self._texts['text'])
        return {'id': raw['id'], 'category': label, 'is_thing': is_thing, 'iscrowd': bool(raw.get('iscrowd', 0))}

    @staticmethod
    def _instance(raw: dict[str, Any], segment: dict[str, Any]) -> dict[str, Any]:
        x, y, width, height = raw['bbox']
        box = [x, y, x + width, y + height]
        return {'bbox': box, 'bbox_label': segment['category'], 'ignore_flag': int(segment['iscrowd'])}

    def crowd_flags(self, item: dict[str, Any]) -> list[bool]:
        """Return whether each annotation of ``item`` is a crowd."""
        return [segment['iscrowd'] for segment in item['segments_info']]

    def filter_data(self) -> list[dict[str, Any]]:
        """Filter and check as the parent, the panoptic PNGs too."""
        items = super().filter_data()
        annotated = [item for item in picked(items, self._indices) if item['segments_info']]
        prefix = self.data_prefix.get('seg') or ''
        check_files(annotated, 'seg_map_path', 'panoptic PNGs', self.ann_file, self.backend_args, prefix)
        warn_of_repeated(annotated, 'seg_map_path', 'panoptic PNGs', self.ann_file)
        return items
