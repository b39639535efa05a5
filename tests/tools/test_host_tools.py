"""What walks an mmdet or mmseg model walks ours: inferencers, test-time augmentation, FLOPs counters."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from mmdet.apis import DetInferencer, inference_detector
from mmengine.analysis import get_model_complexity_info
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import MODELS, DefaultScope
from mmseg.apis import MMSegInferencer, inference_model
from paths import ROOT

from eomt_mm.apis import init_model, load_config

CONFIGS = ROOT / 'configs' / 'eomt'
TASKS = {
    'panoptic': CONFIGS / 'coco' / 'eomt_dinov2-s_24e_coco-panoptic-640.py',
    'instance': CONFIGS / 'coco' / 'eomt_dinov2-s_12e_coco-instance-640.py',
    'semantic': CONFIGS / 'ade20k' / 'eomt_dinov2-s_31e_ade20k-semantic-512.py',
}


def small(task: str) -> Config:
    return load_config(TASKS[task], {'img_size': 64, 'model.backbone.depth': 2})


def saved(task: str, folder: Path) -> tuple[str, str]:
    """Config and checkpoint as files, as a host's tool takes them."""
    torch.manual_seed(0)
    cfg = small(task)
    name = 'decode_head' if task == 'semantic' else 'panoptic_head'
    cfg.model[name].num_queries = 1
    model = init_model(cfg)
    with torch.no_grad():  # one confident query: mmdet's visualiser cannot draw a map without segments
        getattr(model, name).class_predictor.bias[3] = 30
    classes = [str(k) for k in range(150 if task == 'semantic' else 133 if task == 'panoptic' else 80)]
    meta = dict(dataset_meta=dict(classes=classes, palette=[(k, k, k) for k in range(len(classes))]))
    torch.save(dict(state_dict=model.state_dict(), meta=meta), folder / 'model.pth')
    cfg.dump(folder / 'config.py')
    return str(folder / 'config.py'), str(folder / 'model.pth')


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)


@pytest.mark.parametrize('task', ['panoptic', 'instance'])
def test_det_inferencer(task: str, tmp_path: Path, image: np.ndarray) -> None:
    inferencer = DetInferencer(*saved(task, tmp_path), device='cpu', show_progress=False)
    found = inferencer(image, return_datasamples=True, return_vis=True)
    sample = found['predictions'][0]
    if task == 'panoptic':
        assert sample.pred_panoptic_seg.sem_seg.shape == (1, 50, 70)
        (segment,) = sample.panoptic_segments
        assert sample.pred_panoptic_seg.sem_seg.unique().tolist()[-1] == 1000 * segment['id'] + segment['label']
        assert segment['label'] == 3 and segment['score'] > 0.99
    else:
        assert sample.pred_instances.masks.shape == (80, 50, 70)
    assert found['visualization'][0].shape == (50, 70, 3)


def test_seg_inferencer(tmp_path: Path, image: np.ndarray) -> None:
    inferencer = MMSegInferencer(*saved('semantic', tmp_path), device='cpu')
    assert inferencer(image, return_datasamples=True).pred_sem_seg.shape == (50, 70)


@pytest.mark.parametrize('task', TASKS)
def test_truncated_images_are_named(task: str, tmp_path: Path, image: np.ndarray) -> None:
    """By evaluation and by the hosts' inferencers as by training."""
    path = tmp_path / 'a.jpg'
    path.write_bytes(cv2.imencode('.jpg', image)[1].tobytes()[:-40])
    cfg, files = small(task), saved(task, tmp_path)
    host = 'mmseg' if task == 'semantic' else 'mmdet'
    with DefaultScope.overwrite_default_scope(host):
        runs: list[Any] = [lambda: Compose(cfg.test_pipeline)(dict(img_path=str(path)))]
        if task == 'semantic':
            runs += [lambda: inference_model(init_model(cfg), str(path))]
            runs += [lambda: MMSegInferencer(*files, device='cpu')(str(path))]
        else:
            runs += [lambda: inference_detector(init_model(cfg), str(path))]
            runs += [lambda: DetInferencer(*files, device='cpu', show_progress=False)(str(path))]
        for run in runs:
            with pytest.raises(ValueError, match='image .*a.jpg cannot be decoded .the JPEG is truncated'):
                run()


def test_stock_pipelines_still_load(tmp_path: Path, image: np.ndarray) -> None:
    cv2.imwrite(str(tmp_path / 'a.png'), image)
    for host in ('mmdet', 'mmseg'):
        with DefaultScope.overwrite_default_scope(host):
            for arguments in ({}, dict(backend_args=None), dict(file_client_args=dict(backend='disk'))):
                step = Compose([dict(type='LoadImageFromFile', **arguments)])
                assert np.array_equal(step(dict(img_path=str(tmp_path / 'a.png')))['img'], image)


def test_semantic_test_time_augmentation(image: np.ndarray) -> None:
    cfg = small('semantic')
    with DefaultScope.overwrite_default_scope('mmseg'):
        import mmseg.models  # noqa: F401  registers

        model = MODELS.build(dict(type='mmseg.SegTTAModel', module=cfg.model)).eval()
        resize, pack = cfg.test_pipeline[1], dict(type='PackSegInputs')
        flips = [[dict(type='RandomFlip', prob=p, direction='horizontal') for p in (0.0, 1.0)]]
        augment = dict(type='TestTimeAug', transforms=[[resize], *flips, [pack]])
        data: Any = Compose([augment])(
            dict(img=image, img_path='a.jpg', ori_shape=image.shape[:2], img_shape=image.shape[:2])
        )
        batch = {key: [[value] for value in values] for key, values in data.items()}
        with torch.no_grad():
            merged = model.test_step(batch)[0]
            view = {key: value[1] for key, value in batch.items()}
            unflipped = model.module.test_step(view)[0].seg_logits.data
            view['data_samples'][0].set_metainfo(dict(flip=False))
            as_seen = model.module.test_step(view)[0].seg_logits.data
    assert merged.pred_sem_seg.shape == (50, 70)
    assert torch.equal(unflipped, as_seen.flip(-1))


@pytest.mark.parametrize('task', TASKS)
def test_flops_counter(task: str) -> None:
    cfg = Config.fromfile(TASKS[task])
    cfg.model.backbone.depth = 2
    model = MODELS.build(cfg.model).eval()
    found = get_model_complexity_info(model, input_shape=(3, 64, 64), show_table=False)
    assert found['params'] == sum(param.numel() for param in model.parameters())
    assert found['flops'] > 1e8
