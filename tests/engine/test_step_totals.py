"""Losses of accumulated micro-batches are divided by the targets of the whole step, which are counted beforehand."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import eomt_mm  # noqa: F401  before the hosts
from eomt_mm.core import criterion
from eomt_mm.core.criterion import StepTotals
from eomt_mm.core.matcher import HungarianMatcher
from eomt_mm.engine.train_loop import TrainLoop
from eomt_mm.models.heads import EoMTDetHead, EoMTSegHead
from eomt_mm.models.preprocessors import EoMTDetDataPreprocessor

# isort: split
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.structures import InstanceData, PixelData
from mmseg.structures import SegDataSample
from tool_runs import CONFIGS, losses, small


def seg_sample(values: Any, dtype: torch.dtype = torch.int64) -> SegDataSample:
    return SegDataSample(gt_sem_seg=PixelData(data=torch.tensor(values).to(dtype)[None]), metainfo=SIZE)


SIZE = dict(batch_input_shape=(2, 4), img_path='x.jpg')
HEAD = dict(embed_dim=8, depth=4, patch_size=16, num_queries=2, num_blocks=1)


@pytest.mark.parametrize('dtype', [torch.uint8, torch.int32, torch.int64])
@pytest.mark.parametrize('ignore_index', [255, 0])
@pytest.mark.parametrize('values', [[[255, 255]], [[0, 0, 3, 255], [2, 255, 3, 3]], [[1]]])
def test_number_of_semantic_targets(values: list[list[int]], ignore_index: int, dtype: torch.dtype) -> None:
    sample = seg_sample(values, dtype)
    if ignore_index == 0:
        sample.gt_sem_seg.data[sample.gt_sem_seg.data == 255] = 0
    head = EoMTSegHead(num_classes=4, ignore_index=ignore_index, **HEAD)
    assert head.num_targets(sample) == len(head.target(sample)['labels'])


def test_number_of_semantic_targets_with_a_negative_void() -> None:
    head = EoMTSegHead(num_classes=4, ignore_index=-1, **HEAD)
    for values, number in {((-1, -1),): 0, ((-1, 3),): 1, ((0, 3),): 2}.items():
        sample = seg_sample(values)
        assert head.num_targets(sample) == len(head.target(sample)['labels']) == number


@pytest.mark.parametrize('ids', [[[0, 0]], [[0, 2, 2, 1]], [[3, 1]], [[2, 2]]])
def test_number_of_segments(ids: list[list[int]]) -> None:
    """Segments without a pixel, cropped away, are no targets."""
    sample = DetDataSample(
        metainfo=SIZE,
        gt_instances=InstanceData(labels=torch.tensor([0, 1, 1])),
        gt_panoptic_seg=PixelData(segment_ids=torch.tensor(ids, dtype=torch.int32)[None]),
    )
    head = EoMTDetHead('panoptic', 1, 1, **HEAD)
    assert head.num_targets(sample) == len(head.target(sample)['labels'])


@pytest.mark.parametrize('num', [0, 3])
@pytest.mark.parametrize('stuff', [None, [[0, 1, 255, 255]], [[1, 2, 2, 255]]])
def test_number_of_instances_and_stuff(num: int, stuff: list[list[int]] | None) -> None:
    """As mmdet's own pipelines give them; its label maps hold things as well."""
    masks = BitmapMasks(np.ones((num, 2, 4), np.uint8), 2, 4)
    sample = DetDataSample(
        metainfo=SIZE, gt_instances=InstanceData(labels=torch.zeros(num, dtype=torch.int64), masks=masks)
    )
    if stuff is not None:
        sample.gt_sem_seg = PixelData(sem_seg=torch.tensor(stuff, dtype=torch.uint8)[None])
    for head in (EoMTDetHead('panoptic', 1, 2, **HEAD), EoMTDetHead('instance', 1, **HEAD)):
        assert head.num_targets(sample) == len(head.target(sample)['labels'])


def test_totals_of_a_step() -> None:
    """Matched queries are at most the queries (2) of an image."""
    head = EoMTSegHead(num_classes=4, **HEAD)
    samples = [seg_sample([[0, 1, 2, 3]]), seg_sample([[255, 1]]), seg_sample([[255, 255]])]
    assert head.count_step([samples[:2], samples[2:]]) == StepTotals(3, 3, 2)


# ---- whole steps


@pytest.fixture
def equal_points(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every image is matched, and every mask evaluated, at the same points, and all is computed in float64."""
    points = torch.rand(1, 64, 2, dtype=torch.float64)
    match, preprocess, run = HungarianMatcher.forward, EoMTDetDataPreprocessor.forward, TrainLoop.run

    def match_at_points(self: Any, classes: Any, masks: Any, targets: list[Any], _: Any = None) -> Any:
        return match(self, classes, masks, targets, [points.expand(len(targets), -1, -1)] * len(classes))

    def preprocess_in_float64(self: Any, data: Any, training: bool = False) -> Any:
        batch = preprocess(self, data, training)
        return dict(batch, inputs=batch['inputs'].to(self.mean.dtype))

    def run_in_float64(self: TrainLoop) -> Any:
        self.runner.model.double()
        return run(self)

    monkeypatch.setattr(HungarianMatcher, 'forward', match_at_points)
    monkeypatch.setattr(EoMTDetDataPreprocessor, 'forward', preprocess_in_float64)
    monkeypatch.setattr(TrainLoop, 'run', run_in_float64)
    monkeypatch.setattr(criterion, 'uncertain_points', lambda logits, *_: points.expand(len(logits), -1, -1))


@pytest.mark.slow
@pytest.mark.parametrize('sync, micro_batches', [(True, 2), (False, 4)])
def test_weights_after_accumulated_steps_are_those_of_large_batches(
    tool: Callable, coco_root: Path, tmp_path: Path, equal_points: None, sync: bool, micro_batches: int
) -> None:
    """Two steps of 4 images, some of which have no targets."""
    results = []
    for k in (1, micro_batches):
        options = {
            'train_dataloader__batch_size': 4 // k,
            'train_dataloader__dataset__filter_cfg__filter_empty_gt': False,
            'optim_wrapper__accumulative_counts': k,
            'model__panoptic_head__criterion__sync_class_norm': sync,
        }
        common = ['--data-root', coco_root, '--cfg-options', *small('panoptic', 2, **options)]
        tool('train.py', CONFIGS['panoptic'], '--work-dir', tmp_path / str(k), *common)
        weights = torch.load(tmp_path / str(k) / 'iter_2.pth', weights_only=True)['state_dict']
        results.append((weights, losses(tmp_path / str(k))))
    (whole, whole_losses), (parts, parts_losses) = results
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, rtol=0, atol=1e-6)
        assert value.dtype != torch.float32
    assert len(whole_losses) == 2 and parts_losses == pytest.approx(whole_losses, abs=1e-9)
