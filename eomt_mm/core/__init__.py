"""EoMT in plain PyTorch and timm: backbone, network, head, masked attention, matcher, criterion, targets, geometry,
post-processing, augmentation, schedules. It reads no files and does not depend on MMDetection or MMSegmentation."""

from typing import Any

from eomt_mm.public import load, names_of

PUBLIC = {
    'backbone': ('PlainViT', 'Tokens'),
    'network': ('Predictions', 'eomt_forward'),
    'head': ('EoMTHead', 'default_num_blocks'),
    'matcher': ('HungarianMatcher', 'Match', 'Matches', 'compute_dtype', 'on_the_host'),
    'criterion': ('Criterion', 'StepLosses', 'StepTotals'),
    'point_sampling': ('sample_at_points',),
    'targets': ('check_labels', 'pad_masks', 'segments_target', 'semantic_target'),
    'geometry': ('Padding', 'Windows', 'as_size', 'pad_bottom_right', 'resize'),
    'postprocess': (
        'MAPS_AT_ONCE',
        'areas',
        'assign_pixels',
        'assign_segment_ids',
        'best_pairs',
        'choose_queries',
        'class_probs',
        'image_maps',
        'instance_prediction',
        'maps_at_once',
        'max_of_parts',
        'panoptic_prediction',
        'semantic_scores',
    ),
    'schedules': ('annealed_keep_prob', 'lr_factor', 'published_steps', 'two_stage_factor'),
}
__all__ = names_of(PUBLIC)


def __getattr__(name: str) -> Any:
    return load(__name__, PUBLIC, name)
