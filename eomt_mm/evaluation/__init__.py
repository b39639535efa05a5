"""Metrics that the hosts lack. The counting itself (``*_counting``) depends on no host."""

from typing import Any

from eomt_mm.public import load, names_of

PUBLIC = {
    'ap_counting': ('ImageMatches', 'RLE', 'encode_masks', 'average_ap', 'match_by_class'),
    'cityscapes_ap': ('CityscapesAP',),
    'image_metric': ('WarnOnce',),
    'instance_ap': ('InstanceAP',),
    'panoptic_image': ('INSTANCE_OFFSET', 'RunMap'),
    'panoptic_quality': ('PanopticQuality',),
    'pq_counting': ('average_pq', 'count_overlap', 'count_panoptic', 'count_segments'),
    'result_files': ('folder_of_results',),
    'semantic_iou': ('SemanticIoU',),
}
__all__ = names_of(PUBLIC)


def __getattr__(name: str) -> Any:
    return load(__name__, PUBLIC, name)
