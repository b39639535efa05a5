"""Convert predictions to plain dictionaries, the same for all three tasks, with Hugging Face's key names."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import cv2
import numpy as np

from eomt_mm.annotations.masks import as_text
from eomt_mm.models.predictions import Segment

Prediction = dict[str, Any]


def prediction_of(
    found: Sequence[Segment],
    size: Sequence[int],
    classes: Sequence[str],
    num_things: int | None = None,
    with_masks: bool = False,
) -> Prediction:
    """Build the prediction dictionary of an image.

    Args:
        found: segments; where they overlap, the map shows the first one.
        size: (H, W).
        classes: names.
        num_things: classes below this index are things; None: leave ``isthing`` out.
        with_masks: add ``mask``.

    Returns:
        ``segmentation``, (H, W) int32 at the image's size, and ``segments_info``, a list of plain dictionaries:

        - ``id``: value in the map. Panoptic and instance: from 1, 0 means no segment; where instances overlap, the map
          shows the best one. Semantic: the class index.
        - ``label_id``, ``label``: class index and name.
        - ``score``: in [0, 1]; None for semantic.
        - ``area``: in pixels, ``bbox``: [x, y, width, height].
        - ``isthing``: panoptic and instance only.
        - ``mask``: instance only, the complete mask as a COCO run-length encoding.

        Instances are sorted by score, best first; other segments by id.
    """
    segmentation = np.zeros(tuple(size), np.int32)
    info = []
    for segment in reversed(found):
        mask = segment.mask  # one at a time: see Segment.source
        segmentation[mask] = segment.id
        described = dict(
            id=segment.id,
            label_id=segment.label,
            label=classes[segment.label],
            score=segment.score,
            area=int(np.count_nonzero(mask)),
            bbox=list(cv2.boundingRect(mask.view(np.uint8))),
        )
        if num_things is not None:
            described['isthing'] = segment.label < num_things
        if with_masks:
            described['mask'] = as_text(segment.rle)
        info.append(described)
    return dict(segmentation=segmentation, segments_info=info[::-1])


def summary(segments: Iterable[Mapping[str, Any]], limit: int = 8) -> str:
    """Summarise ``segments_info``, largest area first, as '3 person, dog, sky'; at most ``limit`` classes by name."""
    counts: Counter[str] = Counter()
    areas: Counter[str] = Counter()
    for segment in segments:
        counts[segment['label']] += 1
        areas[segment['label']] += segment['area']
    words = [f'{counts[label]} {label}' if counts[label] > 1 else label for label, _ in areas.most_common()]
    return ', '.join(words[:limit]) + (f' and {len(words) - limit} more' if len(words) > limit else '') or 'nothing'
