"""detectron2's own loaders and its loop of inference, with our data sets, mappers and evaluators."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, build_detection_test_loader, build_detection_train_loader
from detectron2.evaluation import inference_on_dataset
from detectron2.structures import Instances
from detectron2_sets import forget_test_sets, leaf_config, registered
from torch import nn

from eomt_mm.detectron2.evaluation import build_evaluator
from eomt_mm.detectron2.ground_truth import read_label_map, read_masks, read_segments
from eomt_mm.detectron2.mappers import mapper_of

TASKS = ('panoptic', 'instance', 'semantic')


@pytest.fixture(autouse=True)
def empty_catalogs() -> Iterator[None]:
    yield
    forget_test_sets()


@pytest.fixture(params=TASKS)
def case(request: pytest.FixtureRequest, coco_root: Path, ade20k_root: Path) -> tuple[str, Any]:
    """Task and config, on generated data."""
    name, root = ('ade20k', ade20k_root) if request.param == 'semantic' else ('coco', coco_root)
    return request.param, leaf_config(f'{name}-{request.param}', root)


def test_training_batches(case: tuple[str, Any]) -> None:
    task, cfg = case
    items = registered(cfg.train_dataloader.dataset, task)
    mapper = mapper_of(task, cfg.train_dataloader.dataset.pipeline, 150, is_train=True)
    loader = build_detection_train_loader(
        items, mapper=mapper, total_batch_size=3, num_workers=0, aspect_ratio_grouping=False
    )
    batch = next(iter(loader))
    assert [tuple(one['image'].shape) for one in batch] == [(3, 64, 64)] * 3
    assert all(one['instances'].gt_masks.dtype == torch.bool for one in batch)
    assert not any({'annotations', 'segments_info'} & set(one) for one in batch)


class Perfect(nn.Module):
    """Predicts the ground truth."""

    def __init__(self, task: str) -> None:
        super().__init__()
        self.task = task

    def forward(self, inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [getattr(self, self.task)(item, (item['height'], item['width'])) for item in inputs]

    def panoptic(self, item: dict[str, Any], size: tuple[int, int]) -> dict[str, Any]:
        found = read_segments(item, size, with_crowds=False)
        infos = [dict(id=k, category_id=label, isthing=True) for k, label in enumerate(found.labels.tolist(), 1)]
        return dict(panoptic_seg=(torch.from_numpy(found.ids), infos))

    def instance(self, item: dict[str, Any], size: tuple[int, int]) -> dict[str, Any]:
        found = read_masks(item, size)
        instances = Instances(size, pred_masks=torch.from_numpy(found.masks).bool())
        instances.pred_classes, instances.scores = torch.from_numpy(found.labels), torch.ones(len(found.labels))
        return dict(instances=instances)

    def semantic(self, item: dict[str, Any], size: tuple[int, int]) -> dict[str, Any]:
        labels = read_label_map(item, size)
        return dict(sem_seg=torch.from_numpy(np.where(labels == 255, 0, labels)))


def test_perfect_predictions_score_100(case: tuple[str, Any]) -> None:
    task, cfg = case
    items = registered(cfg.val_dataloader.dataset, task)
    classes = 150 if task == 'semantic' else 8
    mapper = mapper_of(task, cfg.val_dataloader.dataset.pipeline, classes, is_train=False)
    loader = build_detection_test_loader(DatasetCatalog.get('test_data'), mapper=mapper, num_workers=0)
    found = inference_on_dataset(Perfect(task), loader, build_evaluator('test_data'))
    key, name = dict(panoptic=('panoptic_seg', 'PQ'), instance=('segm', 'AP'), semantic=('sem_seg', 'mIoU'))[task]
    assert found[key][name] == pytest.approx(100)
    assert len(loader.dataset) == len(items), 'images without annotation stay'
