"""Configs for your own data: the README's example loads, the other two tasks read their files."""

import re
from pathlib import Path

import pytest
from mmengine.registry import DATASETS, MODELS, DefaultScope
from paths import ROOT

from eomt_mm.apis import load_config
from eomt_mm.synthetic.shapes import SHAPES_METAINFO

README = (ROOT / 'README.md').read_text()


def own_config() -> str:
    blocks = re.findall(r'```python\n(.*?)```', README, flags=re.DOTALL)
    (block,) = [block for block in blocks if block.startswith('_base_')]
    return block.replace("'../eomt/", f"'{ROOT}/configs/eomt/")


def test_panoptic_example_loads(tmp_path: Path) -> None:
    (tmp_path / 'own.py').write_text(own_config())
    cfg = load_config(tmp_path / 'own.py', {'model.backbone.depth': 1}, data_root='elsewhere')
    assert cfg.test_dataloader.dataset.data_root == 'elsewhere/'
    assert MODELS.build(cfg.model).panoptic_head.num_classes == 4


def test_semantic_recipe_for_own_data(tmp_path: Path, ade20k_root: Path) -> None:
    meta = dict(classes=tuple(map(str, range(151))), palette=[(k, k, k) for k in range(151)])
    prefix = {
        split: dict(img_path=f'images/{split}', seg_map_path=f'annotations/{split}')
        for split in ('training', 'validation')
    }
    dataset = "dict(type='BaseSegDataset', metainfo=metainfo, data_prefix={})"
    (tmp_path / 'own.py').write_text(
        f"_base_ = ['{ROOT}/configs/eomt/ade20k/eomt_dinov2-s_31e_ade20k-semantic-512.py']\n"
        f'metainfo = {meta}\n'
        f'train_dataloader = dict(dataset={dataset.format(prefix["training"])})\n'
        f'val_dataloader = dict(dataset={dataset.format(prefix["validation"])})\n'
        'test_dataloader = val_dataloader\n'
        'model = dict(decode_head=dict(num_classes=151))\n'
    )
    cfg = load_config(tmp_path / 'own.py', data_root=ade20k_root)
    with DefaultScope.overwrite_default_scope('mmseg'):
        import mmseg.datasets  # noqa: F401  registers

        sample = DATASETS.build(cfg.train_dataloader.dataset)[0]
    assert sample['inputs'].shape == (3, 512, 512)
    assert (sample['data_samples'].gt_sem_seg.data < 151).any()


@pytest.mark.parametrize('split', ['train', 'val'])
def test_instance_recipe_for_own_data(split: str, tmp_path: Path, coco_root: Path) -> None:
    loader = (
        f'dict(dataset=dict(metainfo=dict(classes={SHAPES_METAINFO["thing_classes"]}), '
        "ann_file='annotations/instances_{0}2017.json', data_prefix=dict(img='{0}2017/')))"
    )
    (tmp_path / 'own.py').write_text(
        f"_base_ = ['{ROOT}/configs/eomt/coco/eomt_dinov2-s_12e_coco-instance-640.py']\n"
        f'train_dataloader = {loader.format("train")}\nval_dataloader = {loader.format("val")}\n'
        'test_dataloader = val_dataloader\nmodel = dict(panoptic_head=dict(num_things_classes=4))\n'
    )
    cfg = load_config(tmp_path / 'own.py', data_root=coco_root)
    with DefaultScope.overwrite_default_scope('mmdet'):
        import mmdet.datasets  # noqa: F401  registers

        dataset = DATASETS.build(cfg[f'{split}_dataloader'].dataset)
    labels = [int(label) for i in range(len(dataset)) for label in dataset[i]['data_samples'].gt_instances.labels]
    assert labels
    assert max(labels) < 4
