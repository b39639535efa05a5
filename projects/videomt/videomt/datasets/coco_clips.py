"""COCO's images as single-frame videos with the classes of a video data set, the source of pseudo-clips."""

import os.path as osp
from collections import defaultdict
from typing import Any

from eomt_mm.annotations.documents import Image, Instance, check_file_names
from eomt_mm.datasets.coco_json import read_instances_json, report_crowds
from eomt_mm.registry import DATASETS
from eomt_mm.visualization import distinct_palette
from videomt.datasets.classes import COCO_MAPS, INSTANCE_CLASSES
from videomt.datasets.clips import Item, VideoDataset


@DATASETS.register_module()
class CocoClips(VideoDataset):
    """COCO images (instances_train2017.json) that show classes of a video data set, labelled with these classes.

    A video has one frame; `RotateIntoClip` turns it into a clip. Annotations of categories that the video data set does
    not have are dropped, as are, in training, images without other annotations. Frames are like those of
    `TrackDataset`; instance ids count from 1 (COCO's own do not fit into 32 bits).

    Args:
        target: 'ytvis2019', 'ytvis2021', 'ytvis2022' or 'ovis': the data set that defines the classes; see
            `videomt.datasets.classes`.
        kwargs: see `VideoDataset`. ``metainfo['classes']`` selects classes of ``target``; ``filter_cfg`` is
            dict(filter_empty_gt=True) by default.

    Raises:
        FileNotFoundError: the JSON does not exist.
        ValueError: ``target`` or a class is unknown, annotations are invalid, or no category of the JSON maps to a
            class.
    """

    def __init__(self, *args: Any, target: str, **kwargs: Any) -> None:
        if target not in COCO_MAPS:
            raise ValueError(f"target='{target}': one of {sorted(COCO_MAPS)}")
        self.target = target
        names = INSTANCE_CLASSES[target]
        metainfo = {'classes': names, **(kwargs.pop('metainfo', None) or {})}
        unknown = [name for name in metainfo['classes'] if name not in names]
        if unknown:
            raise ValueError(f"metainfo: classes {unknown} are not among the {len(names)} of target='{target}'")
        metainfo.setdefault('palette', list(distinct_palette(len(metainfo['classes']))))
        kwargs.setdefault('filter_cfg', {'filter_empty_gt': True})
        super().__init__(*args, metainfo=metainfo, **kwargs)

    def load_videos(self) -> list[Item]:
        """Read the annotation file; see the class."""
        data = read_instances_json(self.ann_file, backend_args=self.backend_args)
        check_file_names(data['images'], self.ann_file)
        classes, names = list(self._metainfo['classes']), INSTANCE_CLASSES[self.target]
        known = {category['id'] for category in data['categories']}
        self.cat2label: dict[Any, int] = {
            category: classes.index(names[place - 1])
            for category, place in COCO_MAPS[self.target].items()
            if category in known and names[place - 1] in classes
        }
        if not self.cat2label:
            raise ValueError(
                f'none of the {len(known)} categories of {self.ann_file} maps to any of the {len(classes)} classes '
                f"of target='{self.target}': give COCO's instances, with their ids"
            )
        report_crowds((bool(one.get('iscrowd', 0)) for one in data['annotations']), self.ann_file)
        instances: dict[Any, list[dict[str, Any]]] = defaultdict(list)
        for annotation in data['annotations']:
            if annotation['category_id'] in self.cat2label:
                entries = instances[annotation['image_id']]
                entries.append({'instance_id': len(entries) + 1, **self._instance(annotation)})
        return [self._video(image, instances[image['id']]) for image in data['images']]

    def _instance(self, annotation: Instance) -> dict[str, Any]:
        is_crowd = bool(annotation.get('iscrowd', 0))
        mask = annotation.get('segmentation')
        if not mask and not is_crowd:
            raise ValueError(f'{self.ann_file}: annotation {annotation.get("id")} has no "segmentation": remove it')
        return {
            'bbox_label': self.cat2label[annotation['category_id']],
            'mask': mask,
            'ignore_flag': int(is_crowd),
            'source': f'{self.ann_file}: annotation {annotation.get("id")}',
        }

    def _video(self, image: Image, instances: list[dict[str, Any]]) -> Item:
        frame = {
            'img_path': osp.join(self.data_prefix.get('img', ''), image['file_name']),
            'height': image['height'],
            'width': image['width'],
            'instances': instances,
        }
        is_annotated = any(not one['ignore_flag'] for one in instances)
        return {'video_id': image['id'], 'images': [frame], 'is_annotated': is_annotated}
