"""Data sets in the COCO instance format: one json with a mask per object (https://cocodataset.org/#format-data)."""

from collections import defaultdict
from typing import Any

from mmdet.datasets import CocoDataset

from eomt_mm.datasets.coco_json import categories_by_name, images_to_train_on, read_coco_json
from eomt_mm.registry import DATASETS


def _read_instances(path: str, annotated: bool, backend_args: dict | None) -> dict[str, Any]:
    """Content of a json in the COCO instance format; raises errors that name what is wrong with it."""
    data = read_coco_json(path, 'the COCO format, such as instances_val2017.json', annotated, backend_args)
    for category in data['categories']:
        if not {'id', 'name'} <= category.keys():
            raise ValueError(f'{path}: category {category} needs "id" and "name"')
    images = {image['id']: image['file_name'] for image in data['images']}
    categories = {category['id'] for category in data['categories']}
    for annotation in data['annotations']:
        if 'segments_info' in annotation:
            raise ValueError(f'{path} is a panoptic json: give one of instances, such as instances_val2017.json')
        problem = _problem(annotation, images, categories)
        if problem:
            raise ValueError(f'{path}: annotation {annotation.get("id")} {problem}')
    return data


def _problem(annotation: dict[str, Any], images: dict[Any, str], categories: set[Any]) -> str:
    """What is wrong with an annotation, '' where nothing is; ``images`` are file names by id."""
    image, category, box = (annotation.get(key) for key in ('image_id', 'category_id', 'bbox'))
    if image not in images:
        return f'has image_id {image!r}, which none of the {len(images)} images has: remove it, or add the image'
    if category not in categories:
        return f'of {images[image]} has category_id {category!r}, which is not in "categories"'
    if not isinstance(box, list) or len(box) != 4:
        return f'of {images[image]} has bbox {box}: it needs [x, y, width, height] (pixels)'
    return ''


@DATASETS.register_module()
class CocoInstance(CocoDataset):
    """Images with instances that have masks; mmdet's data set with the rules of the published training.

    Differs from the parent in this: label k is the k-th of ``metainfo['classes']`` whatever the order in the json,
    instances are kept whatever their box and "area" (which is not read: whether the mask has a pixel is seen when it
    is loaded and cropped), images with nothing but crowds count as empty, and what is wrong with the file is said at
    build time.

    Arguments are the parent's. ``metainfo`` holds classes and palette, the 80 of COCO where not given; annotations of
    other categories of the json are left out, and so are those with "ignore", as in the parent. ``filter_cfg``
    (training only): ``filter_empty_gt`` drops images without any instance that is not a crowd, ``min_size`` those
    with a shorter side below it (pixels). In test mode the json needs no annotations (test sets) and no masks.

    An item holds img_path, img_id, seg_map_path (None without ``data_prefix['seg']``), height, width (pixels) and
    instances: per instance bbox (x1, y1, x2, y2; pixels), bbox_label, mask ("segmentation" of the json) and
    ignore_flag (1 for a crowd). With ``return_classes`` also text, caption_prompt and custom_entities.

    Raises:
        FileNotFoundError: the json does not exist.
        ValueError: the json does not hold instances of these classes with masks, or nothing is left to train on.
    """

    def load_data_list(self) -> list[dict[str, Any]]:
        """Reads the annotation file; see the class."""
        data = _read_instances(self.ann_file, annotated=not self.test_mode, backend_args=self.backend_args)
        categories = categories_by_name(data, self.metainfo['classes'], self.ann_file)
        self.cat_ids = [category['id'] for category in categories]
        self.cat2label = {category_id: label for label, category_id in enumerate(self.cat_ids)}
        annotations = defaultdict(list)
        for annotation in data['annotations']:
            annotations[annotation['image_id']].append(annotation)
        return [
            self.parse_data_info(
                {'raw_img_info': {**image, 'img_id': image['id']}, 'raw_ann_info': annotations[image['id']]}
            )
            for image in data['images']
        ]

    def parse_data_info(self, raw_data_info: dict[str, Any]) -> dict[str, Any]:
        """Turns the json's entries of one image into an item.

        Args:
            raw_data_info: ``raw_img_info``, an entry of 'images' with ``img_id``; ``raw_ann_info``, the list of its
                entries of 'annotations'.

        Returns:
            the item, see the class.
        """
        image = raw_data_info['raw_img_info']
        # The parent drops instances by their boxes: it is asked for the rest of the item only.
        item: dict[str, Any] = super().parse_data_info({'raw_img_info': image, 'raw_ann_info': []})
        item['instances'] = [
            self._instance(annotation, image['file_name'])
            for annotation in raw_data_info['raw_ann_info']
            if annotation['category_id'] in self.cat2label and not annotation.get('ignore', False)
        ]
        return item

    def _instance(self, annotation: dict[str, Any], file_name: str) -> dict[str, Any]:
        x, y, width, height = annotation['bbox']
        is_crowd = bool(annotation.get('iscrowd', False))
        instance = {
            'ignore_flag': int(is_crowd),
            'bbox': [x, y, x + width, y + height],
            'bbox_label': self.cat2label[annotation['category_id']],
        }
        mask = annotation.get('segmentation')
        if mask:
            instance['mask'] = mask
        elif not is_crowd and not self.test_mode:
            raise ValueError(
                f'{self.ann_file}: annotation {annotation.get("id")} of {file_name} has no "segmentation": training '
                'needs a mask of every instance, a box is not enough; add it or remove the annotation'
            )
        return instance

    def filter_data(self) -> list[dict[str, Any]]:
        """Drops what cannot be trained on; in test mode everything stays, or its false positives would be lost."""
        if self.test_mode or self.filter_cfg is None:
            return self.data_list
        return images_to_train_on(self.data_list, self.filter_cfg, _has_only_crowds, self.ann_file)


def _has_only_crowds(item: dict[str, Any]) -> bool:
    return all(instance['ignore_flag'] for instance in item['instances'])
