"""Data sets, loading transforms and augmentations that the hosts lack."""

from typing import Any

from eomt_mm.public import load, names_of

PUBLIC = {
    'ade20k': ('ADE20KInstance', 'ADE20KPanoptic'),
    'cityscapes': ('CityscapesInstance', 'CityscapesPanoptic'),
    'coco_instance': ('CocoInstance',),
    'coco_json': ('read_annotation_file', 'read_instances_json', 'report_categories', 'report_crowds'),
    'coco_panoptic': ('CocoPanoptic',),
    'folders': ('FolderDataset',),
    'label_maps': ('LabelMaps',),
    'loading': ('LoadImage', 'LoadInstances', 'LoadPanopticSegments', 'LoadSemanticMap'),
    'file_listing': ('check_files', 'check_prefix', 'picked', 'read_list'),
    'sampling': ('PositionSampler', 'SeededDataset'),
    'segment_maps': ('check_size',),
    'transforms': ('ColorJitter', 'PackSegments', 'ResizeToInput', 'ScaleJitterCrop'),
}
__all__ = names_of(PUBLIC)


def __getattr__(name: str) -> Any:
    return load(__name__, PUBLIC, name)
