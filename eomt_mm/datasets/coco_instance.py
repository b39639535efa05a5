"""Data sets in the COCO instance format: a JSON with a mask per object (https://cocodataset.org/#format-data)."""

import logging
from collections import defaultdict
from typing import Any

from mmdet.datasets import CocoDataset
from mmengine.logging import print_log

from eomt_mm.annotations.categories import categories_by_name, no_mask_text
from eomt_mm.annotations.documents import Instance, check_file_names
from eomt_mm.datasets.coco_json import (
    InstanceAnnotations,
    JsonDataset,
    read_instances_json,
    report_categories,
    report_crowds,
)
from eomt_mm.registry import DATASETS


@DATASETS.register_module()
class CocoInstance(JsonDataset, CocoDataset):
    """COCO-format instances with masks: mmdet's data set, with the filter rules of the published training.

    Differences from the parent:

    - Label k is the k-th of ``metainfo['classes']``, whatever the order in the JSON.
    - Instances are kept whatever their box and "area". The area is not read: masks without a pixel are dropped after
      loading and cropping.
    - Images that contain only crowds count as empty.
    - Problems with the file are reported at build time.

    Arguments are the parent's. ``metainfo`` holds classes and palette, by default COCO's 80 classes. Annotations of
    other categories and annotations with "ignore" are dropped, the latter as in the parent. ``filter_cfg`` (training
    only): ``filter_empty_gt`` drops images without any non-crowd instance, ``min_size`` drops images whose shorter side
    is below it (pixels). In test mode the JSON needs neither annotations (test sets) nor masks, and the metric reads it
    from ``metainfo['annotation_file']``.

    An item holds img_path, img_id, seg_map_path (None without ``data_prefix['seg']``), height, width (pixels) and
    instances: per instance bbox (x1, y1, x2, y2; pixels), bbox_label, mask ("segmentation" of the JSON) and
    ignore_flag (1 for a crowd). With ``return_classes`` also text, caption_prompt and custom_entities.

    Raises:
        FileNotFoundError: the JSON or an image does not exist.
        ValueError: the JSON does not hold instances of these classes with masks, or no image is left to train on.
    """

    def load_data_list(self) -> list[dict[str, Any]]:
        """Read the annotation file; see the class."""
        data = read_instances_json(self.ann_file, annotated=not self.test_mode, backend_args=self.backend_args)
        check_file_names(data['images'], self.ann_file)
        used = {annotation['category_id'] for annotation in data['annotations']}
        categories = categories_by_name(data, self.metainfo['classes'], self.ann_file, used)
        self.cat_ids = [category['id'] for category in categories]
        self.cat2label = {category_id: label for label, category_id in enumerate(self.cat_ids)}
        if self.test_mode:
            file = InstanceAnnotations(self.ann_file, data, backend_args=self.backend_args)
            self._metainfo['annotation_file'] = file
        report_categories(data, categories, used, self.ann_file, not self.test_mode)
        self._report_ignored(data['annotations'])
        report_crowds((bool(one.get('iscrowd')) for one in data['annotations']), self.ann_file)
        annotations: dict[Any, list[Instance]] = defaultdict(list)
        for annotation in data['annotations']:
            annotations[annotation['image_id']].append(annotation)
        return [
            self.parse_data_info(
                {'raw_img_info': {**image, 'img_id': image['id']}, 'raw_ann_info': annotations[image['id']]}
            )
            for image in data['images']
        ]

    def parse_data_info(self, raw_data_info: dict[str, Any]) -> dict[str, Any]:
        """Convert the JSON entries of an image to an item.

        Args:
            raw_data_info: ``raw_img_info``, an entry of 'images' with ``img_id``; ``raw_ann_info``, the list of its
                entries of 'annotations'.

        Returns:
            the item, see the class.
        """
        image = raw_data_info['raw_img_info']
        # The parent drops instances because of their boxes, so it only builds the rest of the item.
        item: dict[str, Any] = super().parse_data_info({'raw_img_info': image, 'raw_ann_info': []})
        item['instances'] = [
            self._instance(annotation, image['file_name'])
            for annotation in raw_data_info['raw_ann_info']
            if annotation['category_id'] in self.cat2label and not annotation.get('ignore', False)
        ]
        return item

    def _report_ignored(self, annotations: list[Instance]) -> None:
        count = sum(bool(one.get('ignore')) for one in annotations)
        if count:
            print_log(
                f'{self.ann_file}: {count} of {len(annotations)} annotations have ignore=1: training leaves them out, '
                "evaluation counts them, as pycocotools does; use iscrowd=1 for regions that don't count",
                logger='current',
                level=logging.WARNING,
            )

    def _instance(self, annotation: Instance, file_name: str) -> dict[str, Any]:
        # Only test sets have annotations without box and mask.
        x, y, width, height = annotation.get('bbox') or (0, 0, 0, 0)
        is_crowd = bool(annotation.get('iscrowd', False))
        instance: dict[str, Any] = {
            'ignore_flag': int(is_crowd),
            'bbox': [x, y, x + width, y + height],
            'bbox_label': self.cat2label[annotation['category_id']],
        }
        mask = annotation.get('segmentation')
        if mask:
            instance['mask'] = mask
        elif not is_crowd and not self.test_mode:
            raise ValueError(no_mask_text(annotation, file_name, self.ann_file))
        return instance

    def crowd_flags(self, item: dict[str, Any]) -> list[bool]:
        """Return whether each annotation of ``item`` is a crowd."""
        return [bool(instance['ignore_flag']) for instance in item['instances']]
