"""VIPSeg, read from the output of its own scripts in VIPSeg_720P: frames, panoptic PNGs and one JSON per split.

Format (``change2_720p.py``, ``create_panoptic_video_labels.py`` and ``splitjson.py`` of VIPSeg-Dataset/VIPSeg-Dataset):
'videos' with video_id and images (id, width, height, file_name of the PNG), 'annotations' with video_id and, per frame,
file_name and segments_info (id, category_id), 'categories' with id, name, isthing. A pixel's segment id is
R + 256 G + 65536 B, constant throughout the video for an instance; 0 is void. Frames are JPEGs named like the PNGs.
"""

import os.path as osp
from collections.abc import Mapping
from typing import Any, TypedDict

from mmengine import fileio

from eomt_mm.annotations.categories import categories_by_name, choose_classes
from eomt_mm.annotations.documents import Category, Id, Number, check_categories, check_size, parse
from eomt_mm.registry import DATASETS
from videomt.datasets.classes import wild_metainfo
from videomt.datasets.clips import Item, VideoDataset

SOURCE = "VIPSeg's change2_720p.py, create_panoptic_video_labels.py and splitjson.py make it"


class VIPSegSegment(TypedDict):
    """A segment of a frame."""

    id: int
    category_id: Id


class VIPSegFrame(TypedDict):
    """The segments of a frame; ``file_name`` of the PNG."""

    file_name: str
    segments_info: list[VIPSegSegment]


class VIPSegAnnotation(TypedDict):
    """The annotated frames of a video."""

    video_id: str
    annotations: list[VIPSegFrame]


class VIPSegImage(TypedDict):
    """A frame, by the name of its PNG."""

    file_name: str
    height: Number
    width: Number


class VIPSegVideo(TypedDict):
    """A video and its frames."""

    video_id: str
    images: list[VIPSegImage]


class VIPSegFile(TypedDict, total=False):
    """A file of VIPSeg."""

    videos: list[VIPSegVideo]
    categories: list[Category]
    annotations: list[VIPSegAnnotation]


def read_vipseg_json(path: str, annotated: bool = True, backend_args: dict | None = None) -> VIPSegFile:
    """Read and check an annotation file of VIPSeg.

    Args:
        path: of the JSON.
        annotated: require annotations.
        backend_args: arguments of mmengine's file backend.

    Returns:
        content of the file with 'videos', 'categories' and 'annotations' (may be empty unless ``annotated``).

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not JSON, lacks one of these parts, or has invalid entries.
    """
    try:
        content = fileio.get(path, backend_args=backend_args)
    except FileNotFoundError as error:
        raise FileNotFoundError(f'annotation file {path} does not exist ({SOURCE}): check data_root') from error
    data: VIPSegFile = parse(content, VIPSegFile, path)
    if not annotated:
        data.setdefault('annotations', [])
    missing = [key for key in ('videos', 'categories', 'annotations') if key not in data]
    if missing:
        raise ValueError(f'{path} has no {missing}: give panoptic_gt_VIPSeg_train.json or its like ({SOURCE})')
    check_categories(data['categories'], ('id', 'name'), path)
    known = {category['id'] for category in data['categories']}
    for video in data['videos']:
        for image in video['images']:
            whose = f'{path}: frame {image["file_name"]} of video {video["video_id"]}'
            image['height'], image['width'] = check_size(image['height'], image['width'], whose)
    for annotation in data['annotations']:
        for frame in annotation['annotations']:
            unknown = {segment['category_id'] for segment in frame['segments_info']} - known
            if unknown:
                raise ValueError(
                    f'{path}: frame {frame["file_name"]} of video {annotation["video_id"]} has segments of categories '
                    f'{sorted(unknown, key=str)}, which are not in "categories": make the file again ({SOURCE})'
                )
    return data


@DATASETS.register_module()
class VIPSeg(VideoDataset):
    """VIPSeg: 124 classes, 58 things in order of category id, then 66 stuff classes, as published models index them.

    ``data_prefix`` has img (images) and seg (panomasksRGB), ``ann_file`` is panoptic_gt_VIPSeg_{train,val}.json.
    ``metainfo['classes']`` selects classes (things first); pixels of others are void. An item's frames have img_path,
    height, width, seg_map_path and segments_info (per segment id, label), which `LoadVIPSegTracks` loads. In
    test mode annotations may be missing.

    Arguments and errors: see `VideoDataset`.
    """

    METAINFO = wild_metainfo()

    @classmethod
    def _load_metainfo(cls, metainfo: Mapping[str, Any] | None = None) -> dict[str, Any]:
        stated = super()._load_metainfo(metainfo)
        return {**stated, **choose_classes(cls.METAINFO, stated, given=set(metainfo or ()))}

    def load_videos(self) -> list[Item]:
        """Read the annotation file; see the class."""
        if not self.data_prefix.get('img') or not (self.data_prefix.get('seg') or self.test_mode):
            raise ValueError(
                f"data_prefix={self.data_prefix}: img='images' and seg='panomasksRGB' are needed ({SOURCE})"
            )
        data = read_vipseg_json(self.ann_file, not self.test_mode, self.backend_args)
        frames = (frame for entry in data['annotations'] for frame in entry['annotations'])
        used = {segment['category_id'] for frame in frames for segment in frame['segments_info']}
        categories = categories_by_name(data, self._metainfo['classes'], self.ann_file, used)
        self.cat_ids = [category['id'] for category in categories]
        self.cat2label = {category_id: label for label, category_id in enumerate(self.cat_ids)}
        annotations = {
            (entry['video_id'], frame['file_name']): frame
            for entry in data['annotations']
            for frame in entry['annotations']
        }
        return [self._video(video, annotations) for video in data['videos']]

    def _video(self, video: VIPSegVideo, annotations: Mapping[tuple[str, str], VIPSegFrame]) -> Item:
        name = video['video_id']
        images = []
        for image in video['images']:
            stem = osp.splitext(image['file_name'])[0]
            frame: Item = {
                'img_path': osp.join(self.data_prefix['img'], name, f'{stem}.jpg'),
                'height': image['height'],
                'width': image['width'],
                'segments_info': [],
                'seg_map_path': None,
            }
            annotation = annotations.get((name, image['file_name']))
            if annotation is not None and self.data_prefix.get('seg'):
                frame['seg_map_path'] = osp.join(self.data_prefix['seg'], name, annotation['file_name'])
                frame['segments_info'] = [
                    {'id': segment['id'], 'label': self.cat2label[segment['category_id']]}
                    for segment in annotation['segments_info']
                    if segment['category_id'] in self.cat2label
                ]
            images.append(frame)
        return {'video_id': name, 'images': images, 'is_annotated': any(image['segments_info'] for image in images)}
