"""Configs read without mmengine equal those that mmengine and `load_config` read."""

from pathlib import Path
from typing import Any

import pytest
from mmengine.config import Config
from paths import ROOT

from eomt_mm.apis import load_config
from eomt_mm.recipes.names import project_configs, shipped_configs
from eomt_mm.recipes.reading import read_file, read_recipe

LEAVES = [*shipped_configs(), *project_configs()]
OWN = """_base_ = ['{configs}/_base_/recipes/own_{task}_small.py', '{configs}/_base_/backbones/tiny_scratch.py',
          '{configs}/_base_/schedules/own_300i.py']
data_root = 'data/my_set/'
{meta}
model = dict(backbone=_base_.backbone)
"""
META = dict(
    panoptic="metainfo = dict(thing_classes=('car', 'dog'), stuff_classes=('sky',))",
    instance="metainfo = dict(classes=('car', 'dog'))",
    semantic="metainfo = dict(classes=('car', 'road'))\nlabel_ids = (7, 9)\nseg_map_suffix = '_labels.png'",
)


def plain(value: Any) -> Any:
    """Containers of plain Python, for configs of both readers."""
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items()}
    return type(value)(map(plain, value)) if isinstance(value, list | tuple) else value


def write(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        (folder / f'{name}.py').write_text(text)
    return folder / f'{next(reversed(files))}.py'


@pytest.mark.parametrize('path', LEAVES[::6], ids=lambda path: path.stem)
def test_a_leaf_equals_mmengines(path: Path) -> None:
    assert plain(read_file(path)) == Config.fromfile(path, import_custom_modules=False)._cfg_dict.to_dict()


@pytest.mark.slow
def test_every_leaf_equals_mmengines() -> None:
    for path in LEAVES:
        expected = Config.fromfile(path, import_custom_modules=False)._cfg_dict.to_dict()
        assert plain(read_file(path)) == expected, path


@pytest.mark.parametrize('task', META)
def test_what_the_top_states_is_applied_as_by_load_config(task: str, tmp_path: Path) -> None:
    path = write(tmp_path, own=OWN.format(configs=ROOT / 'configs' / 'eomt', task=task, meta=META[task]))
    options = dict(img_size=128, data_root='elsewhere/set')
    expected = load_config(path, dict(options))._cfg_dict.to_dict()
    found = plain(read_recipe(path, options))
    for name in ('train_dataloader', 'val_dataloader', 'model', 'metainfo', 'data_root'):
        assert found[name] == expected[name], name


def test_names_are_found() -> None:
    name = 'eomt_tiny_shapes-panoptic-128'
    assert read_recipe(name)['model'] == read_recipe(ROOT / 'configs' / 'eomt' / 'toy' / f'{name}.py')['model']
    with pytest.raises(FileNotFoundError, match='did you mean eomt_tiny_shapes-panoptic-128'):
        read_recipe('eomt_tiny_shapes-panoptic-129')


def test_merging_follows_mmengine(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        first='a = dict(x=1, y=dict(z=[1, 2], w=3))\nb = 1\nroot = [dict(s=1)]\n',
        second='c = dict(d=dict(e=1, f=2), g=(1, 2))\n',
        leaf="""_base_ = ['./first.py', './second.py']
def twice(x):
    return 2 * x
a = dict(x=twice(_base_.b), y=dict(z=[3]))
c = dict(d=dict(_delete_=True, h=_base_.c.g), i=dict(_base_.a.y, w=4))
""",
    )
    assert plain(read_file(path)) == Config.fromfile(path)._cfg_dict.to_dict()


@pytest.mark.parametrize(
    ('files', 'message'),
    [
        (dict(a='_base_ = "./none.py"'), r'a\.py: its base .*none\.py does not exist'),
        (dict(a='x = 1', b='x = 2', c='_base_ = ["./a.py", "./b.py"]'), "two of its bases state 'x'"),
        (dict(a='x = 1', b='_base_ = "./a.py"\nx = dict(y=1)'), 'b.py: x is a dict, but 1 in a base'),
        (dict(a='with read_base():\n    from .b import *'), 'only bases as text'),
    ],
)
def test_wrong_files_are_named(files: dict[str, str], message: str, tmp_path: Path) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
        read_file(write(tmp_path, **files))
    assert '\n' not in str(caught.value)


def test_options_that_are_not_shared_are_refused() -> None:
    with pytest.raises(ValueError, match=r'train_cfg\.max_iters: no value that a config states once'):
        read_recipe('eomt_tiny_shapes-panoptic-128', {'train_cfg.max_iters': 3})
