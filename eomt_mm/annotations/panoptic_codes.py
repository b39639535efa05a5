"""mmdet's encoding of panoptic maps: a pixel is label + 1000 * segment id, and labels that are no class are void.

Void is the number of classes. With 1,000 classes it would be the first segment of the first class.
"""

INSTANCE_OFFSET = 1000  # mmdet.evaluation.functional


def check_num_classes(number: int) -> None:
    """Raise ValueError if the encoding has no room for this number of classes."""
    if number >= INSTANCE_OFFSET:
        raise ValueError(
            f"{number} classes: mmdet's encoding of panoptic maps, label + {INSTANCE_OFFSET} * id, has room for "
            f'{INSTANCE_OFFSET - 1}: merge or leave out classes, or train semantic or instance segmentation'
        )
