"""Configurations: every leaf builds, overrides reach everything derived, mismatches are named."""

import sys
import warnings
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS
from paths import ROOT

from eomt_mm.apis import find_config, init_model, load_config
from eomt_mm.apis.classes import dataset_meta
from eomt_mm.apis.config import check_data_apart
from eomt_mm.synthetic.shapes import SHAPES_METAINFO

CONFIGS = ROOT / 'configs' / 'eomt'
PANOPTIC = CONFIGS / 'coco' / 'eomt_dinov2-s_24e_coco-panoptic-640.py'
SEMANTIC = CONFIGS / 'ade20k' / 'eomt_dinov2-l_31e_ade20k-semantic-512.py'


def test_demo_config_states_the_generated_classes() -> None:
    cfg = Config.fromfile(CONFIGS / 'toy' / 'eomt_tiny_shapes-panoptic-128.py')
    assert {key: list(value) for key, value in cfg.train_dataloader.dataset.metainfo.items()} == {
        key: list(value) for key, value in SHAPES_METAINFO.items()
    }


def test_img_size_reaches_every_place() -> None:
    cfg = load_config(PANOPTIC, {'img_size': 320})
    assert '640' not in cfg.pretty_text.replace('panoptic-640', '')
    assert cfg.model.backbone.img_size == cfg.model.data_preprocessor.img_size == 320
    assert cfg.train_dataloader.dataset.pipeline[3].img_size == 320
    assert cfg.test_dataloader.dataset.pipeline[1].img_size == 320


def test_contradicting_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match=r'img_size is stated in different ways') as error:
        load_config(PANOPTIC, {'model.data_preprocessor.img_size': 320})
    assert '640' in str(error.value)
    assert 'model.data_preprocessor.img_size' in str(error.value)


def test_size_that_is_no_multiple_of_the_patch_is_refused() -> None:
    cfg = load_config(PANOPTIC, {'img_size': 330, 'model.backbone.depth': 1})
    with pytest.raises(ValueError, match=r'330.*patch_size=16'):
        MODELS.build(cfg.model)


@pytest.mark.parametrize('root', ['elsewhere/coco', 'elsewhere/coco/'])
@pytest.mark.parametrize('as_option', [False, True])
def test_data_root_reaches_every_place(root: str, as_option: bool) -> None:
    cfg = load_config(PANOPTIC, {'data_root': root}) if as_option else load_config(PANOPTIC, data_root=root)
    assert 'data/coco' not in cfg.pretty_text
    for split in ('train', 'val', 'test'):
        assert cfg[f'{split}_dataloader'].dataset.data_root == 'elsewhere/coco/'


def test_data_root_in_a_config_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / 'own.py'
    path.write_text(f"_base_ = ['{PANOPTIC}']\nimg_size = 256\n")
    cfg = load_config(path, data_root='here')
    assert cfg.model.data_preprocessor.img_size == cfg.train_dataloader.dataset.pipeline[3].img_size == 256
    assert cfg.val_dataloader.dataset.data_root == 'here/'


@pytest.mark.parametrize('root', [None, 'elsewhere'])
def test_a_root_that_a_config_restates_moves_what_its_bases_state(root: str | None, tmp_path: Path) -> None:
    """Evaluators with paths of their own, which ours no longer have, read what the data set reads."""
    path = tmp_path / 'own.py'
    own = "dict(ann_file=data_root + 'val.json', seg_prefix=data_root + 'val')"
    path.write_text(f"_base_ = ['{PANOPTIC}']\ndata_root = 'data/mine/'\nval_evaluator = {own}\n")
    for name in ('own.py', 'based_on_it.py'):
        cfg = load_config(tmp_path / name, data_root=root)
        root_, dataset = cfg.data_root, cfg.val_dataloader.dataset
        assert root_ == cfg.train_dataloader.dataset.data_root == dataset.data_root == f'{root or "data/mine"}/'
        assert cfg.val_evaluator.ann_file == f'{root_}annotations/panoptic_val2017.json'
        assert cfg.val_evaluator.seg_prefix == f'{root_}annotations/panoptic_val2017/'
        (tmp_path / 'based_on_it.py').write_text("_base_ = ['own.py']\nimg_size = 256\n")


def test_only_paths_below_the_root_move(tmp_path: Path) -> None:
    path = tmp_path / 'own.py'
    text = "train_dataloader = dict(dataset=dict(type='CocoDataset', data_root='data/a', ann_file='data/a2/x.json'))\n"
    text += "val_dataloader = dict(dataset=dict(type='CocoDataset', data_root='data/b/', ann_file='data/a/x.json'))\n"
    path.write_text("default_scope = 'mmdet'\ndata_root = 'data/a'\n" + text)
    cfg = load_config(path, data_root='new')
    assert (cfg.train_dataloader.dataset.data_root, cfg.train_dataloader.dataset.ann_file) == ('new/', 'data/a2/x.json')
    assert (cfg.val_dataloader.dataset.data_root, cfg.val_dataloader.dataset.ann_file) == ('data/b/', 'new/x.json')
    path.write_text("default_scope = 'mmdet'\n" + text)  # without a root of its own: the data sets' roots
    cfg = load_config(path, data_root='new')
    assert cfg.train_dataloader.dataset.data_root == cfg.val_dataloader.dataset.data_root == 'new/'


@pytest.mark.parametrize(
    'option, hint',
    [
        ('train_pipelin', 'train_pipeline'),
        ('backbone.depth', 'model.backbone'),
        ('train_pipeline', 'train_dataloader.dataset.pipeline'),
        ('env_cfg.cudn', 'nothing may read it'),
    ],
)
def test_override_that_nothing_reads_warns(option: str, hint: str) -> None:
    with pytest.warns(UserWarning, match=hint):
        load_config(PANOPTIC, {option: 1})


def test_overrides_that_are_read_do_not_warn() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        load_config(
            PANOPTIC,
            {
                'model.backbone.depth': 4,
                'optim_wrapper.optimizer.lr': 1e-3,
                'param_scheduler.0.warmup_steps': (1, 1),
                'train_dataloader.dataset.pipeline.3.scale_range': (1.0, 1.0),
                'model.panoptic_head.criterion.num_points': 100,
                'train_cfg.max_iters': 100,
                'load_from': 'x.pth',
                'default_hooks.guard.type': 'eomt_mm.NonFiniteGuardHook',
                'default_hooks.guard.max_in_a_row': 3,
            },
        )


def test_no_workers_needs_no_second_override() -> None:
    cfg = load_config(PANOPTIC, {'train_dataloader.num_workers': 0})
    assert cfg.train_dataloader.persistent_workers is False
    assert cfg.val_dataloader.persistent_workers is True


@pytest.mark.parametrize(
    'path, key, count, parts',
    [
        (PANOPTIC, 'model.panoptic_head.num_things_classes', 7, ('7', '80 thing_classes', 'person, bicycle')),
        (PANOPTIC, 'model.panoptic_head.num_stuff_classes', 0, ('=0', '53 stuff_classes', 'banner')),
        (SEMANTIC, 'model.decode_head.num_classes', 151, ('151', '150 classes', 'wall, building')),
    ],
)
def test_class_count_that_does_not_fit_the_data_is_refused(
    path: Path, key: str, count: int, parts: tuple[str, ...]
) -> None:
    with pytest.raises(ValueError, match=key.replace('.', r'\.')) as error:
        load_config(path, {key: count})
    for part in parts:
        assert part in str(error.value)


def test_stock_configs_of_the_hosts_load() -> None:
    import mmdet
    import mmseg

    for host, name in (
        (mmdet, 'mask2former_r50_8xb2-lsj-50e_coco-panoptic'),
        (mmseg, 'mask2former_r50_8xb2-160k_ade20k-512x512'),
    ):
        cfg = load_config(
            Path(host.__file__).parent / '.mim' / 'configs' / 'mask2former' / f'{name}.py', data_root='here'
        )
        assert cfg.train_dataloader.dataset.data_root == 'here/'


def test_classes_of_ones_own_data() -> None:
    dataset = dict(type='RepeatDataset', dataset=dict(type='CocoDataset', metainfo=dict(classes=('a', 'b'))))
    assert dataset_meta(dataset, 'mmdet')['classes'] == ('a', 'b')


def test_missing_config_is_named() -> None:
    with pytest.raises(FileNotFoundError, match=r'nowhere\.py'):
        load_config('nowhere.py')


@pytest.mark.parametrize(
    'options, message',
    [
        ({'model.panoptic_head.task': 'semantic'}, "task='semantic'"),
        ({'model.panoptic_head.num_queries': 0}, 'num_queries=0'),
        ({'model.panoptic_head.num_blocks': 13}, 'num_blocks=13'),
        ({'model.backbone.model_name': 'vit_enormous'}, 'vit_enormous'),
        ({'model.backbone.weights': 'nowhere.pth'}, 'nowhere.pth'),
        ({'model.panoptic_head.criterion.importance_ratio': 2}, 'importance_ratio=2'),
    ],
)
def test_wrong_model_arguments_are_named_at_build_time(options: dict, message: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        init_model(load_config(PANOPTIC, {'model.backbone.depth': 1, **options}))


def test_init_model_is_ready_and_downloads_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('socket.socket.connect', lambda *_: pytest.fail('network'))
    cfg = load_config(PANOPTIC, {'img_size': 64, 'model.backbone.depth': 3})
    assert cfg.model.backbone.pretrained
    model = init_model(cfg)
    assert not model.training
    class_logits, mask_logits = model(torch.rand(2, 3, 64, 64), mode='tensor')
    assert [x.shape for x in class_logits] == [(2, 200, 134)]
    assert [x.shape for x in mask_logits] == [(2, 200, 16, 16)]


@pytest.mark.parametrize('name', ['eomt_tiny_shapes-panoptic-128', 'videomt_tiny_500i_shapes-96.py'])
def test_configs_are_loaded_by_name(name: str) -> None:
    assert Path(load_config(name).filename) == find_config(name)
    with pytest.raises(FileNotFoundError, match=f"config '{name}x' is no file, nor the name of a config; did you mean"):
        load_config(f'{name}x')


def test_configs_of_a_project_import_its_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = tmp_path / 'projects' / 'mine'
    (project / 'configs').mkdir(parents=True)
    (project / 'my_project_module.py').write_text('LOADED = True')
    leaf = project / 'configs' / 'leaf.py'
    leaf.write_text("custom_imports = dict(imports=['my_project_module'])")
    own = tmp_path / 'own.py'
    own.write_text("_base_ = ['projects/mine/configs/leaf.py']")
    for path in (own, leaf):
        monkeypatch.setattr(sys, 'path', list(sys.path))
        monkeypatch.delitem(sys.modules, 'my_project_module', raising=False)
        load_config(path)
        assert sys.modules['my_project_module'].LOADED


@pytest.mark.parametrize('folder', ['images/val', 'images/val/x', 'masks', 'sub', '.', 'found', 'images/..'])
def test_results_never_go_to_the_data(folder: str, tmp_path: Path) -> None:
    dataset = dict(
        data_root=str(tmp_path),
        data_prefix=dict(img='images/val', seg='found/panoptic_results' if folder == 'found' else 'masks'),
        ann_file='all.json' if folder in ('.', 'images/..') else 'sub/all.json',
    )
    for wrapped in (dataset, dict(type='ClassBalancedDataset', dataset=dataset), dict(datasets=[dataset])):
        cfg = Config(dict(test_dataloader=dict(dataset=wrapped)))
        with pytest.raises(ValueError, match='results may replace files of the data set in .*: name another folder'):
            check_data_apart(cfg, str(tmp_path / folder))
        for other in ('results', 'images', 'images/vals'):
            check_data_apart(cfg, str(tmp_path / other))
