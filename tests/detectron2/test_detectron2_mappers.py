"""The mapper gives the tensors of the mm pipelines, for every data set and task of the configs."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2_sets import LEAVES, forget_test_sets, leaf_config, registered
from PIL import Image

from eomt_mm.detectron2.data_sets import register_own_label_maps
from eomt_mm.detectron2.ground_truth import read_ground_truth
from eomt_mm.detectron2.mappers import EoMTMapper, mapper_of
from eomt_mm.models.sample_targets import det_sample_target, seg_sample_target
from eomt_mm.registry import DATASETS
from eomt_mm.synthetic.generate import write_cityscapes, write_coco_stuff

SIZE = (64, 96)


@pytest.fixture(scope='session')
def cityscapes_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cityscapes(tmp_path_factory.mktemp('cities') / 'root', 4, 3, (48, 80), progress=False)


@pytest.fixture(scope='session')
def stuff_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_coco_stuff(tmp_path_factory.mktemp('stuff') / 'root', 4, 3, (48, 80), progress=False)


@pytest.fixture(autouse=True)
def empty_catalogs() -> Iterator[None]:
    yield
    forget_test_sets()


@pytest.fixture(params=LEAVES)
def leaf(
    request: pytest.FixtureRequest, coco_root: Path, ade20k_root: Path, cityscapes_root: Path, stuff_root: Path
) -> tuple[Any, str]:
    """Config of a leaf, on generated data, and its task."""
    roots = {'coco': coco_root, 'ade20k': ade20k_root, 'cityscapes': cityscapes_root}
    root = stuff_root if request.param == 'coco-semantic' else roots[request.param.split('-')[0]]
    return leaf_config(request.param, root, SIZE), request.param.split('-')[1]


def num_classes(dataset: Any) -> int:
    return len(dataset.metainfo['classes'])


def test_training_samples_are_those_of_the_mm_pipeline(leaf: tuple[Any, str]) -> None:
    cfg, task = leaf
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    items = registered(cfg.train_dataloader.dataset, task)
    count = num_classes(dataset)
    assert len(MetadataCatalog.get('test_data').dataset_meta['classes']) == count
    assert [item['file_name'] for item in items] == [dataset.get_data_info(i)['img_path'] for i in range(len(dataset))]
    mapper = mapper_of(task, cfg.train_dataloader.dataset.pipeline, count, is_train=True)
    for index, item in enumerate(items):
        np.random.seed(index)
        theirs = dataset[index]
        state = np.random.get_state()[2]
        np.random.seed(index)
        ours = mapper(item)
        assert np.random.get_state()[2] == state, 'as many random numbers'
        sample = theirs['data_samples']
        target = (
            seg_sample_target(sample, count, SIZE) if task == 'semantic' else det_sample_target(sample, 0, count, SIZE)
        )
        assert torch.equal(ours['image'], theirs['inputs'][[2, 1, 0]])
        assert torch.equal(ours['instances'].gt_classes, target['labels'])
        assert torch.equal(ours['instances'].gt_masks, target['masks'])
        assert ours['instances'].image_size == SIZE == tuple(ours['image'].shape[1:])
        assert (ours['height'], ours['width']) == tuple(sample.ori_shape)


def test_test_images_are_those_of_the_mm_pipeline(leaf: tuple[Any, str]) -> None:
    cfg, task = leaf
    dataset = DATASETS.build(cfg.val_dataloader.dataset)
    items = registered(cfg.val_dataloader.dataset, task)
    mapper = mapper_of(task, cfg.val_dataloader.dataset.pipeline, num_classes(dataset), is_train=False)
    assert len(items) == len(dataset)
    for item, theirs in zip(items, dataset, strict=True):
        ours = mapper(item)
        assert torch.equal(ours['image'], theirs['inputs'][[2, 1, 0]])
        assert (ours['height'], ours['width']) == tuple(theirs['data_samples'].ori_shape)
        assert 'instances' not in ours


def own_label_maps(root: Path) -> list[dict[str, Any]]:
    for folder in ('images', 'labels'):
        (root / folder).mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    Image.fromarray(pixels).save(root / 'images' / 'a.JPG')
    labels = np.full((30, 40), 255, np.uint8)
    labels[:10], labels[10:20] = 7, 200
    Image.fromarray(labels).save(root / 'labels' / 'a.png')
    prefix = dict(img_path='images', seg_map_path='labels')
    register_own_label_maps('test_own', prefix, ('low', 'high'), str(root), label_ids=(7, 200))
    items: list[dict[str, Any]] = DatasetCatalog.get('test_own')
    return items


def test_values_of_own_label_maps(tmp_path: Path) -> None:
    (item,) = own_label_maps(tmp_path)
    mapper = EoMTMapper('semantic', 60, 2, scale_range=(1, 1), flip_prob=None)
    found = mapper(item)['instances']
    assert found.gt_classes.tolist() == [0, 1]
    assert found.gt_masks.flatten(1).sum(1).tolist() == [15 * 60, 15 * 60]


@pytest.mark.parametrize('form', ['annotations', 'pan_seg_file_name'])
def test_standard_dicts_of_detectron2_need_no_registration_of_ours(form: str, coco_root: Path) -> None:
    task = 'instance' if form == 'annotations' else 'panoptic'
    cfg = leaf_config(f'coco-{task}', coco_root, SIZE)
    item = registered(cfg.train_dataloader.dataset, task)[0]
    keys = {'file_name', 'image_id', 'height', 'width', form, 'segments_info'}
    standard = {key: value for key, value in item.items() if key in keys}
    mapper = mapper_of(task, cfg.train_dataloader.dataset.pipeline, 8, is_train=True)
    assert len(mapper(standard)['instances']) >= 0


def test_a_dict_without_ground_truth_for_the_task_is_named(tmp_path: Path) -> None:
    (item,) = own_label_maps(tmp_path)
    with pytest.raises(ValueError, match=r'a.JPG has no ground truth for task=.instance.'):
        read_ground_truth(item, 'instance', (30, 40))


@pytest.mark.parametrize(
    'broken, message',
    [
        ({'type': 'mmdet.Mosaic'}, 'detectron2 has no Mosaic'),
        ({'type': 'RandomFlip', 'prob': 0.5, 'direction': 'vertical'}, r"RandomFlip has \['direction'\]"),
        ({'type': 'eomt_mm.ResizeToInput', 'img_size': 64, 'fit': 'cover'}, "fit='cover' for semantic"),
        ({'type': 'eomt_mm.ScaleJitterCrop', 'img_size': 64, 'scale_range': (2, 1)}, r'0 < low <= high'),
        ({'type': 'eomt_mm.ColorJitter', 'hue': 2}, r'hue=2 in \[0, 0.5\]'),
        ({'type': 'eomt_mm.LoadImage'}, 'img_size is in neither'),
    ],
)
def test_what_the_mapper_cannot_do_is_refused(broken: dict[str, Any], message: str) -> None:
    pipeline = [broken] if 'Load' in broken['type'] else [broken, dict(type='eomt_mm.ScaleJitterCrop', img_size=64)]
    with pytest.raises(ValueError, match=message):
        mapper_of('panoptic', pipeline, 3, is_train=True)


def test_arguments_are_checked() -> None:
    with pytest.raises(ValueError, match=r"task='depth': one of"):
        EoMTMapper('depth', 64, 3)
    with pytest.raises(ValueError, match='flip_prob=2'):
        EoMTMapper('panoptic', 64, 3, flip_prob=2)
    for size in (0, (64,), (64, 64, 3)):
        with pytest.raises(ValueError, match=r'must be an int or \(height, width\)'):
            EoMTMapper('panoptic', size, 3)
    with pytest.raises(ValueError, match='num_classes=0'):
        EoMTMapper('panoptic', 64, 0)
    mapper = EoMTMapper('semantic', 64, 3, jitter=dict(hue=0.1), flip_prob=None)
    assert vars(EoMTMapper(**vars(mapper))) == vars(mapper), 'attributes are the arguments: configs are made of them'
