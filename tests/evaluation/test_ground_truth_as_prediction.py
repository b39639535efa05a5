"""Ground truth handed in as prediction, from files to metric, is perfect in each task."""

from pathlib import Path
from typing import Any

import pytest
import torch
from mmdet.registry import DATASETS as DET_DATASETS, METRICS as DET_METRICS
from mmengine.registry import DefaultScope
from mmengine.structures import InstanceData, PixelData
from mmseg.registry import DATASETS as SEG_DATASETS, METRICS as SEG_METRICS
from paths import ROOT

from eomt_mm.apis import load_config
from eomt_mm.apis.classes import config_meta
from eomt_mm.core.postprocess import Segment
from eomt_mm.models.heads import boxes_of_masks, encode_panoptic
from eomt_mm.synthetic.generate import write_cityscapes, write_coco_stuff

CONFIGS = ROOT / 'configs' / 'eomt'
TOY = CONFIGS / 'toy'


@pytest.fixture(scope='module')
def roots(ade20k_root: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp('roots')
    stuff = write_coco_stuff(folder / 'stuff', num_train=1, num_val=3, size=(96, 96), progress=False)
    cityscapes = write_cityscapes(folder / 'cityscapes', num_train=1, num_val=4, size=(96, 192), progress=False)
    return dict(coco=stuff, ade20k=ade20k_root, cityscapes=cityscapes)


def evaluate(cfg: Any, predict: Any) -> dict[str, float]:
    """Metric of ``predict(sample)`` over the validation set of ``cfg``."""
    datasets, metrics = (DET_DATASETS, DET_METRICS) if cfg.default_scope == 'mmdet' else (SEG_DATASETS, SEG_METRICS)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        dataset = datasets.build(cfg.val_dataloader.dataset)
        stated = cfg.val_evaluator if isinstance(cfg.val_evaluator, list) else [cfg.val_evaluator]
        evaluating = [metrics.build(metric) for metric in stated]
    for metric in evaluating:
        metric.dataset_meta = dataset.metainfo
    for item in (dataset[i] for i in range(len(dataset))):
        predict(item['data_samples'])
        for metric in evaluating:
            metric.process(dict(inputs=[item['inputs']]), [item['data_samples'].to_dict()])
    return {key: value for metric in evaluating for key, value in metric.evaluate(size=len(dataset)).items()}


def predict_segments(sample: Any, num_classes: int, shift: int = 0) -> None:
    """Adds the segments of the sample's id map as panoptic prediction and as instances, labels moved by ``shift``."""
    ids = sample.gt_panoptic_seg.segment_ids[0]
    labels = (sample.gt_instances.labels + shift) % num_classes
    segments = [Segment(k, label, 1.0) for k, label in enumerate(labels.tolist(), start=1)]
    only_segments = torch.where(ids <= len(labels), ids, 0)  # ids above are crowds
    sample.pred_panoptic_seg = PixelData(sem_seg=encode_panoptic(only_segments, segments, num_classes)[None])
    masks = ids == torch.arange(1, len(labels) + 1)[:, None, None]
    sample.pred_instances = InstanceData(masks=masks, labels=labels, scores=torch.ones(len(labels)))


@pytest.mark.parametrize('perfect', [True, False])
@pytest.mark.parametrize(
    'name, scores',
    [
        ('ade20k/eomt_dinov2-s_31e_ade20k-panoptic-640', {'coco_panoptic/PQ': 100}),
        ('ade20k/eomt_dinov2-s_31e_ade20k-instance-640', {'coco/segm_mAP': 1}),
        ('cityscapes/eomt_dinov2-s_107e_cityscapes-panoptic-1024', {'coco_panoptic/PQ': 100}),
        ('cityscapes/eomt_dinov2-s_107e_cityscapes-instance-1024', {'coco/segm_mAP': 1, 'cityscapes/mAP': 1}),
    ],
)
def test_official_files(name: str, scores: dict[str, float], perfect: bool, roots: dict[str, Path]) -> None:
    cfg = load_config(CONFIGS / f'{name}.py', {'img_size': 64}, roots[name.split('/')[0]])
    num_classes = len(config_meta(cfg)['classes'])
    found = evaluate(cfg, lambda sample: predict_segments(sample, num_classes, 0 if perfect else 1))
    for key, best in scores.items():
        assert found[key] == (best if perfect else 0)


@pytest.mark.parametrize(
    'name', ['coco/eomt_dinov2-s_12e_coco-semantic-512', 'cityscapes/eomt_dinov2-s_107e_cityscapes-semantic-1024']
)
def test_label_maps_with_ids_of_their_own(name: str, roots: dict[str, Path]) -> None:
    cfg = load_config(CONFIGS / f'{name}.py', {'img_size': 64}, roots[name.split('/')[0]])

    def predict(sample: Any) -> None:
        truth = sample.gt_sem_seg.data.long()
        sample.pred_sem_seg = PixelData(data=torch.where(truth == 255, 0, truth))

    assert evaluate(cfg, predict)['mIoU'] == 100


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
