"""YouTube-VIS 2019, 2021 and 2022, OVIS, and other data sets in their format, read from the official JSON.

Format (codalab competition 20128, "get data"): 'videos' with id, width, height, length, file_names; 'annotations' with
video_id, category_id, iscrowd and one entry per frame in 'segmentations' (run lengths, polygons, or None where the
instance is out of sight); 'categories' with id, name.
"""

import logging
import os.path as osp
from collections import defaultdict
from collections.abc import Mapping
from typing import Any, TypedDict

from mmengine.logging import print_log

from eomt_mm.annotations.categories import categories_by_name
from eomt_mm.annotations.documents import (
    Category,
    DefectiveMasks,
    Flag,
    Id,
    Mask,
    Number,
    check_categories,
    check_size,
    flag_problem,
    local_name,
    parse,
    unknown_id,
)
from eomt_mm.annotations.masks import examine, is_blank
from eomt_mm.datasets.coco_json import read_annotation_file, report_categories, report_crowds
from eomt_mm.registry import DATASETS
from eomt_mm.visualization import distinct_palette
from videomt.datasets.classes import INSTANCE_CLASSES
from videomt.datasets.clips import Item, VideoDataset


class Video(TypedDict, total=False):
    """A video of the YouTube-VIS format."""

    id: Id
    height: Number
    width: Number
    file_names: list[str]


class TrackAnnotation(TypedDict, total=False):
    """A track of the YouTube-VIS format."""

    id: int | None
    video_id: Id
    category_id: Id
    segmentations: list[Mask]
    iscrowd: Flag


class TracksFile(TypedDict):
    """A file in the YouTube-VIS format."""

    videos: list[Video]
    categories: list[Category]
    annotations: list[TrackAnnotation]


class TracksInFile(TypedDict, total=False):
    """The same as stored: in test files, annotations are null or missing."""

    videos: list[Video]
    categories: list[Category]
    annotations: list[TrackAnnotation] | None


def read_tracks_json(path: str, annotated: bool = True, backend_args: dict | None = None) -> TracksFile:
    """Read and check an annotation file in the YouTube-VIS format.

    Args:
        path: of the JSON.
        annotated: require annotations; the public validation files have none.
        backend_args: arguments of mmengine's file backend.

    Returns:
        content of the file with 'videos', 'categories' and 'annotations' (may be empty unless ``annotated``).

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not JSON, lacks one of these parts, or has invalid entries.
    """
    given: TracksInFile = parse(read_annotation_file(path, backend_args), TracksInFile, path)
    data: TracksFile = {
        'videos': given.get('videos', []),
        'categories': given.get('categories', []),
        'annotations': given.get('annotations') or [],
    }
    missing = [key for key, entries in data.items() if not entries]
    if missing and (annotated or missing != ['annotations']):
        raise ValueError(
            f'{path} has no {missing}: give a json in the YouTube-VIS format; one without annotations serves for '
            'test_mode=True only'
        )
    _check_videos(data['videos'], path)
    check_categories(data['categories'], ('id', 'name'), path)
    _check_annotations(data, path)
    return data


def _check_videos(videos: list[Video], path: str) -> None:
    for video in videos:
        if not {'id', 'file_names', 'height', 'width'} <= video.keys():
            raise ValueError(f'{path}: video {video.get("id")} needs "id", "file_names", "height", "width" (pixels)')
        video['height'], video['width'] = check_size(video['height'], video['width'], f'{path}: video {video["id"]}')
        video['file_names'] = [local_name(name) for name in video['file_names']]
    if len({video['id'] for video in videos}) < len(videos):
        raise ValueError(f'{path}: ids of videos must be unique; renumber them if files were merged')


def _check_annotations(data: TracksFile, path: str) -> None:
    lengths = {video['id']: len(video['file_names']) for video in data['videos']}
    sizes = {video['id']: (int(video['height']), int(video['width'])) for video in data['videos']}
    categories = {category['id'] for category in data['categories']}
    ids = set()
    num_empty, unseen, defects = 0, [], DefectiveMasks(path)
    for annotation in data['annotations']:
        name = f'{path}: annotation {annotation.get("id")}'
        video, category = annotation.get('video_id'), annotation.get('category_id')
        if video not in lengths:
            raise ValueError(f'{name} {unknown_id("video_id", video, lengths, "videos")}')
        if category not in categories:
            raise ValueError(f'{name} {unknown_id("category_id", category, categories, "categories")}')
        if problem := flag_problem(annotation):
            raise ValueError(f'{name} {problem}')
        count = len(annotation.get('segmentations') or ())
        if count != lengths[video]:
            raise ValueError(
                f'{name} has {count} segmentations, its video {video} {lengths[video]} frames: one per frame is '
                'needed, null where the instance is out of sight'
            )
        ids.add(annotation.get('id'))
        num_empty += _drop_empty(annotation, sizes[video], path, defects)
        unseen += [annotation] * (not any(annotation['segmentations']))
    if len(ids) < len(data['annotations']) or None in ids:
        raise ValueError(f'{path}: ids of annotations must be there and unique, they are the ids of the tracks')
    if num_empty:
        _warn(f'{path}: {num_empty} masks have no polygon of 3 or more points: they are left out')
    if unseen:
        _warn(
            f'{path}: {len(unseen)} of {len(data["annotations"])} annotations have no mask in any frame, such as '
            f'annotation {unseen[0]["id"]}: they are left out'
        )
    defects.report(_warn)


def _warn(text: str) -> None:
    print_log(text, logger='current', level=logging.WARNING)


def _drop_empty(annotation: TrackAnnotation, size: tuple[int, int], path: str, defects: DefectiveMasks) -> int:
    """Check polygons and remove those without an outline; return their number.

    Run lengths are checked on loading, except for those without a pixel.
    """
    masks: list[Any] = annotation['segmentations']
    num_empty = 0
    for frame, mask in enumerate(masks):
        whose = f'annotation {annotation.get("id")}, frame {frame}'
        if isinstance(mask, dict):
            defects.add('no pixel' if is_blank(mask) else '', whose)
        elif mask:
            masks[frame], defect = examine(mask, size, f'{path}: {whose}')
            defects.add(defect, whose)
            num_empty += masks[frame] is None
    return num_empty


class TrackDataset(VideoDataset):
    """Videos with instances, from a JSON in the YouTube-VIS format.

    Label k is the k-th of ``metainfo['classes']``, found by name, whatever the order in the JSON; annotations of other
    categories are dropped. ``metainfo['category_ids']`` are the JSON's ids of the classes. In test mode the JSON needs
    no annotations. An item's frames have img_path, height, width and instances: per visible instance bbox_label,
    mask, instance_id (the annotation's id) and ignore_flag (1 for a crowd).

    Arguments and errors: see `VideoDataset`.
    """

    @classmethod
    def _load_metainfo(cls, metainfo: Mapping[str, Any] | None = None) -> dict[str, Any]:
        stated: dict[str, Any] = super()._load_metainfo(metainfo)
        if 'classes' not in stated:
            raise ValueError(f"{cls.__name__} needs metainfo=dict(classes=(...)) with names of the json's categories")
        stated.setdefault('palette', list(distinct_palette(len(stated['classes']))))
        return stated

    def load_videos(self) -> list[Item]:
        """Read the annotation file; see the class."""
        data = read_tracks_json(self.ann_file, not self.test_mode, self.backend_args)
        used = {annotation['category_id'] for annotation in data['annotations']}
        categories = categories_by_name(data, self._metainfo['classes'], self.ann_file, used)
        self.cat_ids = [category['id'] for category in categories]
        self._metainfo['category_ids'] = tuple(self.cat_ids)
        self.cat2label = {category_id: label for label, category_id in enumerate(self.cat_ids)}
        annotations: dict[Any, list[TrackAnnotation]] = defaultdict(list)
        for annotation in data['annotations']:
            if annotation['category_id'] in self.cat2label:
                annotations[annotation['video_id']].append(annotation)
        report_crowds((bool(one.get('iscrowd', 0)) for one in data['annotations']), self.ann_file)
        report_categories(data, categories, used, self.ann_file, not self.test_mode)
        return [self._video(video, annotations[video['id']]) for video in data['videos']]

    def _video(self, video: Video, annotations: list[TrackAnnotation]) -> Item:
        folder = self.data_prefix.get('img', '')
        images: list[Item] = []
        for frame, name in enumerate(video['file_names']):
            seen = [annotation for annotation in annotations if annotation['segmentations'][frame]]
            images.append(
                {
                    'img_path': osp.join(folder, name),
                    'height': video['height'],
                    'width': video['width'],
                    'instances': [self._instance(annotation, frame) for annotation in seen],
                }
            )
        is_annotated = any(not one['ignore_flag'] for image in images for one in image['instances'])
        return {'video_id': video['id'], 'images': images, 'is_annotated': is_annotated}

    def _instance(self, annotation: TrackAnnotation, frame: int) -> dict[str, Any]:
        return {
            'bbox_label': self.cat2label[annotation['category_id']],
            'mask': annotation['segmentations'][frame],
            'instance_id': annotation['id'],
            'ignore_flag': int(bool(annotation.get('iscrowd', 0))),
            'source': f'{self.ann_file}: annotation {annotation["id"]}',
        }


@DATASETS.register_module()
class YouTubeVIS(TrackDataset):
    """Any data set in the YouTube-VIS format; ``metainfo`` states its classes. See `TrackDataset`."""


@DATASETS.register_module()
class YouTubeVIS2019(TrackDataset):
    """YouTube-VIS 2019: 40 classes. See `TrackDataset`."""

    METAINFO = {'classes': INSTANCE_CLASSES['ytvis2019']}


@DATASETS.register_module()
class YouTubeVIS2021(TrackDataset):
    """YouTube-VIS 2021: 40 classes. Also for 2022, which has the same classes and training set. See `TrackDataset`."""

    METAINFO = {'classes': INSTANCE_CLASSES['ytvis2021']}


@DATASETS.register_module()
class OVIS(TrackDataset):
    """OVIS: 25 classes. See `TrackDataset`."""

    METAINFO = {'classes': INSTANCE_CLASSES['ovis']}
