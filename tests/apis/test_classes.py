"""Class names stated once: they reach data sets and head, and what does not fit is named."""

from pathlib import Path
from typing import Any

import pytest
from paths import ROOT

from eomt_mm.apis import load_config
from eomt_mm.apis.classes import config_meta
from eomt_mm.recipes.classes import complete_metainfo, default_palette

BASE = ROOT / 'configs' / 'eomt' / '_base_'


def write_config(folder: Path, task: str, lines: str = '') -> Path:
    path = folder / f'own_{task}.py'
    parts = (f'recipes/own_{task}.py', 'backbones/dinov3_small.py', 'schedules/own_10000i.py')
    bases = [str(BASE / part) for part in parts]
    path.write_text(f'_base_ = {bases}\nmodel = dict(backbone=_base_.backbone)\n{lines}')
    return path


def test_classes_reach_data_sets_and_head(tmp_path: Path) -> None:
    cfg = load_config(
        write_config(tmp_path, 'panoptic', "metainfo = dict(thing_classes=('car',), stuff_classes=('road', 'sky'))")
    )
    assert cfg.model.panoptic_head.num_things_classes == 1
    assert cfg.model.panoptic_head.num_stuff_classes == 2
    for loader in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        assert cfg[loader].dataset.metainfo.classes == ('car', 'road', 'sky')
        assert len(cfg[loader].dataset.metainfo.palette) == 3


@pytest.mark.parametrize('task, key', [('instance', 'num_things_classes'), ('semantic', 'num_classes')])
def test_class_count_follows_in_the_other_tasks(tmp_path: Path, task: str, key: str) -> None:
    cfg = load_config(write_config(tmp_path, task, "metainfo = dict(classes=('cat', 'dog'))"))
    head = cfg.model.decode_head if task == 'semantic' else cfg.model.panoptic_head
    assert head[key] == 2
    assert config_meta(cfg)['classes'] == ('cat', 'dog')


def test_classes_of_a_leaf_give_way_to_ones_own(tmp_path: Path) -> None:
    leaf = BASE.parent / 'coco' / 'eomt_dinov2-l_12e_coco-instance-640.py'
    path = tmp_path / 'own.py'
    path.write_text(f"_base_ = ['{leaf}']\nmetainfo = dict(classes=('cat',))\ndata_root = 'mine'\n")
    cfg = load_config(path)
    assert cfg.model.panoptic_head.num_things_classes == 1
    assert cfg.train_dataloader.dataset.data_root == 'mine/'
    assert cfg.val_dataloader.dataset.data_root == 'mine/'


def test_metrics_follow_the_data_set(tmp_path: Path) -> None:
    lines = "metainfo = dict(classes=('cat',))\ndata_root = 'mine/'\n"
    lines += "val_dataloader = dict(dataset=dict(ann_file='v.json', data_prefix=dict(img='v/')))\n"
    for more in (
        "val_evaluator = dict(ann_file='data/own/x.json')\n",
        "val_dataloader['dataset']['type'] = 'CocoDataset'\n",
    ):
        cfg = load_config(write_config(tmp_path, 'instance', lines + more))
        assert cfg.val_evaluator.ann_file == 'mine/v.json'
        assert 'ann_file' not in cfg.test_evaluator  # the data set's, at run time
    cfg = load_config(write_config(tmp_path, 'instance', lines), {'val_evaluator.ann_file': 'other.json'})
    assert cfg.val_evaluator.ann_file == 'other.json'


def test_classes_reach_data_sets_inside_wrappers(tmp_path: Path) -> None:
    lines = """metainfo = dict(classes=('cat', 'dog'))
_one = dict(type='CocoDataset', ann_file='a.json', data_prefix=dict(img='a/'))
train_dataloader = dict(dataset=dict(_delete_=True, type='ConcatDataset', datasets=[
    dict(type='RepeatDataset', times=2, dataset=_one), _one]))
"""
    cfg = load_config(write_config(tmp_path, 'instance', lines))
    first, second = cfg.train_dataloader.dataset.datasets
    assert first.dataset.metainfo.classes == second.metainfo.classes == ('cat', 'dog')


def test_count_that_the_user_sets_is_checked_not_overwritten(tmp_path: Path) -> None:
    path = write_config(tmp_path, 'semantic', "metainfo = dict(classes=('cat', 'dog'))")
    with pytest.raises(ValueError, match=r'num_classes=3.*2 classes: cat, dog'):
        load_config(path, {'model.decode_head.num_classes': 3})


@pytest.mark.parametrize(
    'task, meta, word',
    [
        ('panoptic', dict(classes=('a', 'b')), 'thing_classes=.*stuff_classes='),
        ('panoptic', dict(classes=('b', 'a'), thing_classes=('a',), stuff_classes=('b',)), 'things followed by'),
        ('panoptic', dict(thing_classes=('circle'), stuff_classes=('sky',)), r"thing_classes='circle'.*comma"),
        ('instance', {}, r'instance segmentation needs classes='),
        ('semantic', dict(class_names=('a',)), 'class_names'),
        ('semantic', dict(classes='cat'), 'comma'),
        ('semantic', dict(classes=(1, 2)), 'names'),
        ('semantic', dict(classes=('cat', 'dog', 'cat')), r"repeat: \['cat'\]"),
        ('semantic', dict(classes=('cat', 'dog'), palette=[(0, 0, 0)]), '1 colours for 2 classes'),
    ],
)
def test_wrong_metainfo_is_named(task: str, meta: dict[str, Any], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        complete_metainfo(meta, task)


def test_only_things_or_only_stuff_is_fine() -> None:
    assert complete_metainfo(dict(thing_classes=('a',)), 'panoptic')['stuff_classes'] == ()
    assert complete_metainfo(dict(stuff_classes=('a',)), 'panoptic')['classes'] == ('a',)


def test_colours_differ() -> None:
    palette = default_palette(150)
    assert len(palette) == len(set(palette)) == 150
    assert all(0 <= value <= 255 for colour in palette for value in colour)
    assert default_palette(3) == palette[:3]


def test_stuff_alone_counts_no_things(tmp_path: Path) -> None:
    cfg = load_config(write_config(tmp_path, 'panoptic', "metainfo = dict(stuff_classes=('sky', 'grass'))"))
    assert (cfg.model.panoptic_head.num_things_classes, cfg.model.panoptic_head.num_stuff_classes) == (0, 2)


def test_semantic_data_without_class_names_is_told_what_to_state(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r'num_classes is not known.*metainfo = dict\(classes='):
        load_config(write_config(tmp_path, 'semantic'))


def test_home_is_expanded_in_the_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('HOME', str(tmp_path))
    path = write_config(tmp_path, 'instance', "metainfo = dict(classes=('a',))\ndata_root = '~/mine'\n")
    assert load_config(path).train_dataloader.dataset.data_root == f'{tmp_path}/mine/'
