"""Ground truth handed in as prediction, from files to metric, is perfect in each task."""

from pathlib import Path
from typing import Any

import pytest
import torch
from mmdet.registry import DATASETS as DET_DATASETS, METRICS as DET_METRICS
from mmengine.registry import DefaultScope
from mmengine.structures import InstanceData, PixelData
from mmseg.registry import DATASETS as SEG_DATASETS, METRICS as SEG_METRICS

from eomt_mm.apis import load_config
from eomt_mm.models.heads import boxes_of_masks, encode_panoptic
from eomt_mm.models.postprocess import Segment

TOY = Path(__file__).resolve().parent.parent / 'configs' / 'eomt' / 'toy'


def evaluate(cfg: Any, predict: Any) -> dict[str, float]:
    """Metric of ``predict(sample)`` over the validation set of ``cfg``."""
    datasets, metrics = (DET_DATASETS, DET_METRICS) if cfg.default_scope == 'mmdet' else (SEG_DATASETS, SEG_METRICS)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        dataset = datasets.build(cfg.val_dataloader.dataset)
        metric = metrics.build(cfg.val_evaluator)
    metric.dataset_meta = dataset.metainfo
    for item in (dataset[i] for i in range(len(dataset))):
        predict(item['data_samples'])
        metric.process(dict(inputs=[item['inputs']]), [item['data_samples'].to_dict()])
    return metric.evaluate(size=len(dataset))


def test_panoptic(coco_root: Path) -> None:
    cfg = load_config(TOY / 'eomt_tiny_shapes-panoptic-128.py', data_root=coco_root)

    def predict(sample: Any) -> None:
        ids, labels = sample.gt_panoptic_seg.segment_ids[0], sample.gt_instances.labels
        segments = [Segment(k, label, 1.0) for k, label in enumerate(labels.tolist(), start=1)]
        sample.pred_panoptic_seg = PixelData(sem_seg=encode_panoptic(ids, segments, num_classes=8)[None])

    found = evaluate(cfg, predict)
    assert found['coco_panoptic/PQ'] == found['coco_panoptic/PQ_th'] == found['coco_panoptic/PQ_st'] == 100


@pytest.mark.parametrize('perfect', [True, False])
def test_instance(coco_root: Path, perfect: bool) -> None:
    cfg = load_config(
        TOY / 'eomt_tiny_coco-instance-256.py',
        {
            'model.panoptic_head.num_things_classes': 4,
            **{
                f'{name}_dataloader.dataset.metainfo.classes': ['circle', 'square', 'triangle', 'star']
                for name in ('train', 'val', 'test')
            },
        },
        data_root=coco_root,
    )

    def predict(sample: Any) -> None:
        masks = torch.from_numpy(sample.gt_instances.masks.to_ndarray()).bool()
        labels = sample.gt_instances.labels if perfect else (sample.gt_instances.labels + 1) % 4
        sample.pred_instances = InstanceData(
            masks=masks, labels=labels, scores=torch.ones(len(masks)), bboxes=boxes_of_masks(masks)
        )

    assert evaluate(cfg, predict)['coco/segm_mAP'] == (1.0 if perfect else 0.0)


def test_semantic(ade20k_root: Path) -> None:
    cfg = load_config(TOY / 'eomt_tiny_ade20k-semantic-256.py', data_root=ade20k_root)

    def predict(sample: Any) -> None:
        sample.pred_sem_seg = PixelData(data=sample.gt_sem_seg.data.long() % 150)

    assert evaluate(cfg, predict)['mIoU'] == 100
