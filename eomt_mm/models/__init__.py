"""Adapters of the core to mmseg and mmdet: segmentor, detector, heads, preprocessors, targets and predictions."""

from typing import Any

from eomt_mm.public import load, names_of

PUBLIC = {
    'backbone': ('TimmViT',),
    'heads': ('DetRules', 'EoMTDetHead', 'EoMTSegHead', 'boxes_of_masks'),
    'losses': ('build_criterion',),
    'predictions': ('Segment', 'label_map_segments', 'predicted_segments'),
    'preprocessors': ('EoMTDetDataPreprocessor', 'EoMTSegDataPreprocessor', 'IMAGENET_MEAN', 'IMAGENET_STD'),
    'sample_targets': ('det_sample_target', 'missing_annotation', 'source_of'),
    'segmentors': ('EoMTDetector', 'EoMTSegmentor', 'build_backbone_and_head'),
}
__all__ = names_of(PUBLIC)


def __getattr__(name: str) -> Any:
    return load(__name__, PUBLIC, name)
