"""Every public inference interface of both hosts, on every task, with shipped configs and with those of own data."""

from collections.abc import Callable
from itertools import permutations
from pathlib import Path
from typing import Any

import cv2
import mmdet.apis
import mmseg.apis
import numpy as np
import pytest
import torch
from host_models import CLASSES, own_config, saved
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData, PixelData
from mmseg.structures import SegDataSample
from tool_runs import CONFIGS

from eomt_mm.apis import init_model, load_config

TASKS = ('panoptic', 'instance', 'semantic')
PIXELS = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
Files = tuple[Path, Path]


@pytest.fixture(scope='module')
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, bool], Files]:
    folder = tmp_path_factory.mktemp('models')
    return {(task, own): saved(task, folder / f'{task}{own}', own) for task in TASKS for own in (False, True)}


@pytest.fixture(scope='module')
def image(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp('image') / 'a.png'
    cv2.imwrite(str(path), PIXELS)
    return str(path)


def map_of(sample: Any) -> torch.Tensor:
    """The prediction of any task as one map (H, W)."""
    if 'pred_sem_seg' in sample:
        return sample.pred_sem_seg.data[0]
    if 'pred_panoptic_seg' in sample:
        return sample.pred_panoptic_seg.sem_seg[0]
    return sample.pred_instances.masks.sum(0)


@pytest.mark.parametrize('own', [True, pytest.param(False, marks=pytest.mark.slow)])
@pytest.mark.parametrize('task', ['panoptic', 'instance'])
def test_mmdet(task: str, own: bool, files: dict[tuple[str, bool], Files], image: str, tmp_path: Path) -> None:
    config, checkpoint = files[task, own]
    model = mmdet.apis.init_detector(config, str(checkpoint), device='cpu')
    assert model.dataset_meta['classes'] == init_model(config, checkpoint).dataset_meta['classes']
    by_path, by_pixels = mmdet.apis.inference_detector(model, image), mmdet.apis.inference_detector(model, PIXELS)
    assert map_of(by_path).shape == (50, 70) and torch.equal(map_of(by_path), map_of(by_pixels))
    assert len(mmdet.apis.inference_detector(model, [PIXELS, PIXELS])) == 2

    inferencer = mmdet.apis.DetInferencer(str(config), str(checkpoint), device='cpu', show_progress=False)
    options: dict[str, Any] = dict(out_dir=str(tmp_path), no_save_pred=False, return_vis=True)
    found = inferencer([image, PIXELS], batch_size=2, **options)
    assert [picture.shape for picture in found['visualization']] == [(50, 70, 3)] * 2
    assert len(list((tmp_path / 'vis').iterdir())) == len(list((tmp_path / 'preds').glob('*.json'))) == 2
    (returned,) = inferencer(image)['predictions']
    if task == 'panoptic':
        ids = returned['panoptic_seg'].astype(int) @ (1, 256, 65536)
        void = map_of(by_path) == model.panoptic_head.num_classes
        assert np.array_equal(ids, torch.where(void, 0, map_of(by_path)))
        written = cv2.imread(str(tmp_path / 'preds' / 'a_panoptic_seg.png'))[..., ::-1]
        assert np.array_equal(written, returned['panoptic_seg'])
    else:
        assert returned['labels'] == by_path.pred_instances.labels.tolist() and len(returned['masks']) > 0


@pytest.mark.parametrize('own', [True, pytest.param(False, marks=pytest.mark.slow)])
def test_mmseg(own: bool, files: dict[tuple[str, bool], Files], image: str, tmp_path: Path) -> None:
    config, checkpoint = files['semantic', own]
    model = mmseg.apis.init_model(config, str(checkpoint), device='cpu')
    assert model.dataset_meta['classes'] == init_model(config, checkpoint).dataset_meta['classes']
    by_path = mmseg.apis.inference_model(model, image)
    by_pixels = mmseg.apis.inference_model(model, [PIXELS, PIXELS])
    assert map_of(by_path).shape == (50, 70) and len(by_pixels) == 2
    assert all(torch.equal(map_of(by_path), map_of(one)) for one in by_pixels)
    drawn = mmseg.apis.show_result_pyplot(model, image, by_path, show=False, out_file=str(tmp_path / 'drawn.png'))
    assert drawn.shape == (50, 70, 3) and (tmp_path / 'drawn.png').is_file()

    without_names = mmseg.apis.init_model(config, device='cpu')
    assert mmseg.apis.show_result_pyplot(without_names, image, by_path, show=False).shape == (50, 70, 3)

    inferencer = mmseg.apis.MMSegInferencer(str(config), str(checkpoint), device='cpu')
    found = inferencer([image, PIXELS], batch_size=2, out_dir=str(tmp_path), return_vis=True)
    assert [picture.shape for picture in found['visualization']] == [(50, 70, 3)] * 2
    assert all(np.array_equal(labels, map_of(by_path)) for labels in found['predictions'])
    assert len(list((tmp_path / 'vis').iterdir())) == len(list((tmp_path / 'pred').iterdir())) == 2


class Tiles:
    """An image for ``RSInferencer``, as ``RSImage`` without GDAL: two tiles, and the written map."""

    def __init__(self) -> None:
        self.grids: list[tuple[int, int]] = []
        self.written = np.zeros((50, 70), np.uint8)

    def create_grids(self, window_size: tuple[int, int], stride: tuple[int, int]) -> None:
        self.grids = [(0, 35), (35, 70)]

    def read(self, grid: tuple[int, int]) -> np.ndarray:
        return PIXELS[:, slice(*grid)].copy()

    def create_seg_map(self, path: str | None) -> 'Tiles':
        return self

    def write(self, data: np.ndarray, grid: tuple[int, int]) -> None:
        self.written[:, slice(*grid)] = data


@pytest.mark.parametrize('own', [True, pytest.param(False, marks=pytest.mark.slow)])
def test_remote_sensing(own: bool, files: dict[tuple[str, bool], Files]) -> None:
    config, checkpoint = map(str, files['semantic', own])
    tiles = Tiles()
    mmseg.apis.RSInferencer.from_config_path(config, checkpoint).run(tiles, (35, 50))
    model = mmseg.apis.init_model(config, checkpoint, device='cpu')
    halves = mmseg.apis.inference_model(model, [PIXELS[:, :35].copy(), PIXELS[:, 35:].copy()])
    assert np.array_equal(tiles.written, np.concatenate([map_of(half) for half in halves], axis=1))
    again = Tiles()
    mmseg.apis.RSInferencer.from_model(model).run(again, (35, 50))
    assert np.array_equal(again.written, tiles.written)


@pytest.mark.parametrize('order', list(permutations(TASKS)))
def test_both_hosts_in_one_process(order: tuple[str, ...], files: dict[tuple[str, bool], Files], image: str) -> None:
    """All models are built first, and used twice: each host finds its types whatever was built or used before."""
    calls: list[Callable[[], Any]] = []
    for task in order:
        config, checkpoint = map(str, files[task, True])
        if task == 'semantic':
            segmentor = mmseg.apis.init_model(config, checkpoint, device='cpu')
            calls.append(lambda model=segmentor: mmseg.apis.inference_model(model, image))
        else:
            detector = mmdet.apis.init_detector(config, checkpoint, device='cpu')
            calls.append(lambda model=detector: mmdet.apis.inference_detector(model, image))
    first = [map_of(call()) for call in calls]
    assert all(torch.equal(map_of(call()), found) for call, found in zip(calls, first, strict=True))


@pytest.mark.parametrize('task', TASKS)
def test_config_of_own_data(task: str, tmp_path: Path) -> None:
    """Its class counts follow from its metainfo, which the hosts do not read: the error says what does."""
    config = own_config(task, tmp_path)
    build = mmseg.apis.init_model if task == 'semantic' else mmdet.apis.init_detector
    inferencer = mmseg.apis.MMSegInferencer if task == 'semantic' else mmdet.apis.DetInferencer
    for refused in (build, inferencer):
        with pytest.raises(ValueError, match=r'metainfo.*eomt_mm\.apis\.load_config\(PATH\) instead of PATH'):
            refused(str(config), device='cpu')
    cfg = load_config(config)
    model = build(cfg, device='cpu')
    head = model.decode_head if task == 'semantic' else model.panoptic_head
    assert head.num_classes == sum(map(len, CLASSES[task].values()))
    assert inferencer(cfg, device='cpu').model.dataset_meta


@pytest.mark.parametrize('task', TASKS)
def test_checkpoint_without_names(task: str, files: dict[tuple[str, bool], Files], image: str, tmp_path: Path) -> None:
    """Results have numbered names and colours of their own, in every function that draws."""
    config, checkpoint = files[task, True]
    state = torch.load(checkpoint, weights_only=True)['state_dict']
    torch.save(state, tmp_path / 'bare.pth')
    bare = str(tmp_path / 'bare.pth')
    count = sum(map(len, CLASSES[task].values()))
    if task == 'semantic':
        model = mmseg.apis.init_model(config, bare, device='cpu')
        mmseg.apis.show_result_pyplot(model, image, mmseg.apis.inference_model(model, image), show=False)
        inferencer: Any = mmseg.apis.MMSegInferencer(str(config), bare, device='cpu')
    else:
        model = mmdet.apis.init_detector(config, bare, device='cpu')
        inferencer = mmdet.apis.DetInferencer(str(config), bare, device='cpu', show_progress=False)
    assert list(model.dataset_meta['classes']) == [f'class {k}' for k in range(count)]
    assert len(model.dataset_meta['palette']) == count
    assert len(inferencer(image, return_vis=True)['visualization']) > 0


def test_weights_of_mmsegs_old_argument() -> None:
    cfg = load_config(CONFIGS['semantic'])
    cfg.model.pretrained = 'resnet.pth'
    with pytest.raises(ValueError, match=r"pretrained='resnet.pth'.*model\.backbone\.weights"):
        init_model(cfg)


@pytest.mark.parametrize('task', ['panoptic', 'instance'])
def test_map_without_segments(task: str, files: dict[tuple[str, bool], Files], image: str) -> None:
    config, checkpoint = files[task, True]
    cfg = load_config(config, {'model.panoptic_head.score_thr': 1.0})
    inferencer = mmdet.apis.DetInferencer(cfg, str(checkpoint), device='cpu', show_progress=False)
    (picture,) = inferencer(image, return_vis=True, pred_score_thr=1.0)['visualization']
    assert np.array_equal(picture, PIXELS[..., ::-1])


def sample_of(task: str, **meta: Any) -> Any:
    """A sample with ground truth, without what our preprocessor records."""
    if task == 'semantic':
        data = PixelData(data=torch.zeros(1, 32, 48, dtype=torch.long))
        return SegDataSample(metainfo=meta, gt_sem_seg=data)
    masks = torch.zeros(1, 32, 48, dtype=torch.bool)
    masks[:, :9] = True
    return DetDataSample(metainfo=meta, gt_instances=InstanceData(labels=torch.tensor([1]), masks=masks))


@pytest.mark.parametrize('task', TASKS)
def test_forward_without_our_preprocessor(task: str, files: dict[tuple[str, bool], Files]) -> None:
    """As the hosts' own tests do: normalised images and samples, in all modes."""
    model: Any = init_model(*files[task, True])
    images = torch.randn(2, 3, 32, 48)
    whole = model(images, mode='predict')
    assert [map_of(sample).shape for sample in whole] == [(32, 48)] * 2
    samples = [sample_of(task), sample_of(task, img_shape=(32, 40, 3), ori_shape=(64, 80, 3), pad_shape=(32, 48))]
    losses = model(images, samples, mode='loss')
    assert all(loss.isfinite() for loss in losses.values())
    assert model(images, samples, mode='tensor')[0][-1].shape[:2] == (2, 5)
    found = model(images, samples, mode='predict')
    assert [map_of(sample).shape for sample in found] == [(32, 48), (64, 80)]
    assert torch.equal(map_of(found[0]), map_of(whole[0]))
    with pytest.raises(ValueError, match=r'img_shape=\(32, 49\).*32 x 48'):
        model(images[:1], [sample_of(task, img_shape=(32, 49))], mode='predict')
    with pytest.raises(ValueError, match='1 samples without geometry for 2 inputs'):
        model(images, [sample_of(task)], mode='predict')
