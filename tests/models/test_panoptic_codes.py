"""mmdet's encoding of panoptic maps: which models fit into it, and the round trip of the largest that does."""

import pytest
import torch
from mmdet.evaluation.functional import INSTANCE_OFFSET as THEIRS
from mmdet.structures import DetDataSample
from mmengine.structures import PixelData
from videomt.head import VidEoMTHostHead

from eomt_mm.annotations.panoptic_codes import INSTANCE_OFFSET
from eomt_mm.core.postprocess import Segment
from eomt_mm.models.heads import EoMTDetHead, encode_panoptic
from eomt_mm.models.predictions import predicted_segments

SIZES = dict(embed_dim=32, depth=2, patch_size=16, num_queries=3, num_blocks=1)


@pytest.mark.parametrize('head', [EoMTDetHead, VidEoMTHostHead])
def test_panoptic_models_of_1000_classes_are_refused_when_built(head: type) -> None:
    assert INSTANCE_OFFSET == THEIRS
    with pytest.raises(ValueError, match='^1000 classes: .* has room for 999: merge or leave out classes'):
        head(task='panoptic', num_things_classes=600, num_stuff_classes=400, **SIZES)
    assert head(task='panoptic', num_things_classes=600, num_stuff_classes=399, **SIZES).num_classes == 999
    assert head(task='instance', num_things_classes=1200, **SIZES).num_classes == 1200


def test_999_classes_and_void_are_told_apart() -> None:
    ids, segments = torch.arange(4).view(2, 2), [Segment(1, 0, 0.9), Segment(2, 998, 0.9), Segment(3, 0, 0.9)]
    sample = DetDataSample(pred_panoptic_seg=PixelData(sem_seg=encode_panoptic(ids, segments, 999)[None]))
    found = predicted_segments(sample, 999)
    assert [(one.id, one.label) for one in found] == [(1, 0), (2, 998), (3, 0)]
    assert [one.mask.nonzero()[0].tolist() for one in found] == [[0], [1], [1]]
