"""Figures of runs: curves, bars per class, confusion matrix, and how masks form."""

import json
import math
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tool_runs import CONFIGS, ROOT, small

from eomt_mm.apis import init_model, load_config


def module(name: str) -> dict[str, Any]:
    return runpy.run_path(str(ROOT / 'tools' / 'analysis' / name))


def write_run(work_dir: Path, run: str, steps: tuple[int, ...], loss: float = 100.0) -> None:
    folder = work_dir / run / 'vis_data'
    folder.mkdir(parents=True)
    records = [dict(loss=loss + s, loss_cls=1.0, mask_prob_0=0.5, lr=1e-4, time=0.1, step=s) for s in steps]
    records.append({'coco_panoptic/PQ': 3.0, 'time': 9.0, 'step': 40})
    (folder / 'scalars.json').write_text('\n'.join(map(json.dumps, records)) + '\n{"loss": 1.0, "st')  # killed


def test_scalars_of_a_resumed_run(tmp_path: Path) -> None:
    read_scalars = module('plot_curves.py')['read_scalars']
    with pytest.raises(FileNotFoundError, match=r'scalars\.json'):
        read_scalars(tmp_path)
    write_run(tmp_path, '1', (10, 20, 30), 100)
    write_run(tmp_path, '2', (30, 40), 200)  # step 30 was repeated after the resume
    scalars = read_scalars(tmp_path)
    assert scalars['loss'] == [(10, 110.0), (20, 120.0), (30, 230.0), (40, 240.0)]
    assert scalars['coco_panoptic/PQ'] == [(40, 3.0)]
    assert scalars['time'] == [(10, 0.1), (20, 0.1), (30, 0.1), (40, 0.1)]


def test_curves_of_one_run_and_of_two(tool: Callable, tmp_path: Path) -> None:
    for name in ('a/train', 'b/train'):
        write_run(tmp_path / name, '1', (10, 20))
    tool('analysis/plot_curves.py', tmp_path / 'a' / 'train')
    tool('analysis/plot_curves.py', tmp_path / 'a/train', tmp_path / 'b/train', '--out', tmp_path / 'out' / 'two.png')
    one, two = Image.open(tmp_path / 'a/train/curves.png'), Image.open(tmp_path / 'out/two.png')
    assert one.size == two.size
    assert one.tobytes() != two.tobytes()
    names = module('plot_curves.py')['run_names']
    assert names([tmp_path / 'a/train', tmp_path / 'b/train']) == ['a/train', 'b/train']
    assert names([tmp_path / 'a', tmp_path / 'b']) == ['a', 'b']
    with pytest.raises(ValueError, match='twice'):
        names([tmp_path / 'a', tmp_path / 'a'])


def test_plan_of_a_config(tool: Callable, tmp_path: Path) -> None:
    plan = module('plot_curves.py')['plan']
    cfg = load_config(ROOT / 'configs/eomt/ade20k/eomt_dinov3-b_16e_ade20k-semantic-512.py')
    scalars = {name: dict(values) for name, values in plan(cfg).items()}
    assert sorted(scalars) == ['lr', 'lr_backbone', *(f'mask_prob_{b}' for b in range(3))]
    assert max(scalars['lr']) == 20192
    assert scalars['lr'][20192] == scalars['lr_backbone'][0] == scalars['mask_prob_2'][20192] == 0
    assert scalars['mask_prob_0'][0] == scalars['mask_prob_2'][0] == 1
    assert max(scalars['lr'].values()) == pytest.approx(cfg.optim_wrapper.optimizer.lr, rel=0.01)
    assert next(step for step, prob in scalars['mask_prob_0'].items() if prob == 0) == pytest.approx(3000, abs=25)
    tool('analysis/plot_curves.py', '--plan', CONFIGS['panoptic'], '--out', tmp_path / 'plan.png')
    assert (tmp_path / 'plan.png').stat().st_size > 10_000


@pytest.mark.parametrize('arguments', [[], ['--plan', 'config.py'], ['run', '--plan', 'config.py']])
def test_curves_of_what(arguments: list[str], tool: Callable) -> None:
    with pytest.raises(SystemExit):
        tool('analysis/plot_curves.py', *arguments)


def test_no_plan_without_a_schedule() -> None:
    cfg = load_config(CONFIGS['panoptic'])
    cfg.custom_hooks = 2 * [dict(type='eomt_mm.MaskAnnealingHook')]
    with pytest.raises(ValueError, match='2 MaskAnnealingHook'):
        module('plot_curves.py')['plan'](cfg)
    cfg.param_scheduler = []
    with pytest.raises(ValueError, match='0 TwoStagePolyLR'):
        module('plot_curves.py')['plan'](cfg)


@pytest.mark.slow
@pytest.mark.parametrize('task, first', [('panoptic', 'PQ'), ('instance', 'mAP'), ('semantic', 'IoU')])
def test_bars_of_a_real_log(
    task: str, first: str, tool: Callable, coco_root: Path, ade20k_root: Path, tmp_path: Path
) -> None:
    root, options = ade20k_root if task == 'semantic' else coco_root, small(task)
    checkpoint = tmp_path / 'model.pth'
    values = dict(option.split('=', 1) for option in options if option.startswith(('model.', 'metainfo')))
    values = {key: json.loads(value.replace("'", '"').replace('False', 'false')) for key, value in values.items()}
    model = init_model(load_config(CONFIGS[task], {'img_size': 64, **values}, root))
    torch.save(dict(state_dict=model.state_dict()), checkpoint)
    if task != 'semantic':
        options.append('test_evaluator.classwise=True')
    common = ['--data-root', root, '--work-dir', tmp_path / 'test']
    tool('test.py', CONFIGS[task], checkpoint, *common, '--cfg-options', *options)
    log = next(tmp_path.glob('test/*/*.log'))
    table = module('plot_classes.py')['read_table'](log)
    classes = (
        model.dataset_meta['classes'] if task == 'semantic' else load_config(CONFIGS[task], values).metainfo.classes
    )
    assert list(table) == [name.strip() for name in classes]  # ADE20K has 'bed '
    assert next(iter(next(iter(table.values())))) == first
    tool('analysis/plot_classes.py', tmp_path / 'test', '--sort', '--out', tmp_path / 'bars.png')
    assert (tmp_path / 'bars.png').stat().st_size > 5_000
    with pytest.raises(SystemExit):
        tool('analysis/plot_classes.py', log, '--metric', 'speed', '--out', tmp_path / 'none.png')
    assert not (tmp_path / 'none.png').exists()


def test_last_table_of_a_log(tmp_path: Path) -> None:
    read_table = module('plot_classes.py')['read_table']
    log = tmp_path / 'a.log'
    rows = '+---+\n| class | mAP | instances |\n+---+\n| cat | {} | 3 |\n| dog | - | 0 |\n+---+\n'
    table = f'INFO - Mask AP per class:\n{rows}'
    log.write_text(table.format(0.25) + 'Iter 7\n' + table.format(0.5) + 'Iter 8\n| other | table |\n')
    found = read_table(log)
    assert found['cat'] == {'mAP': 0.5}
    assert math.isnan(found['dog']['mAP'])
    assert list(found) == ['cat', 'dog']
    log.write_text('nothing here\n')
    assert read_table(log) == {}


def test_no_table_is_said(tool: Callable, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match='classwise=True'):
        tool('analysis/plot_classes.py', tmp_path, '--out', tmp_path / 'a.png')


def test_bars_of_many_classes() -> None:
    table = {f'class {k}': dict(PQ=math.nan if k == 3 else k / 2) for k in range(150)}
    figure = module('plot_classes.py')['draw'](table, 'PQ', True)
    labels = [[label.get_text() for label in axes.get_yticklabels()] for axes in figure.axes]
    assert [len(column) for column in labels] == [50, 50, 50]
    assert labels[0][0] == 'class 149'
    assert labels[-1][-1] == 'class 3'
    assert '1 without ground truth' in figure.get_suptitle()


def test_counts_of_confusion() -> None:
    tool = module('confusion_matrix.py')
    truth = np.array([[0, 0, 1, 255]], np.uint8)
    matrix = tool['count'](iter([(truth, np.array([[0, 1, 1, 0]])), (truth, np.array([[0, 0, 2, 2]]))]), 3)
    assert matrix.tolist() == [[3, 1, 0], [0, 1, 1], [0, 0, 0]]
    assert tool['worst_pairs'](matrix, 'abc', 9) == ['b as c: 50.0%', 'a as b: 25.0%']
    assert tool['worst_pairs'](matrix, 'abc', 1) == ['b as c: 50.0%']
    assert tool['normalised'](matrix)[2].tolist() == [0, 0, 0]
    with pytest.raises(ValueError, match='2 classes'):
        tool['count'](iter([(truth, np.array([[0, 2, 1, 0]]))]), 2)
    with pytest.raises(ValueError, match='different images'):
        tool['count'](iter([(truth, truth.T)]), 3)


def test_matrix_shows_classes_with_ground_truth() -> None:
    tool = module('confusion_matrix.py')
    matrix = np.diag([5, 0, 7])
    figure = tool['draw'](matrix, ['cat', 'dog', 'sky'], [])
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ['cat', 'sky']
    assert len(tool['draw'](np.eye(150, dtype=int), [f'class {k}' for k in range(150)], []).axes) == 3


def test_folder_and_dump_give_the_same_matrix(tool: Callable, ade20k_root: Path, tmp_path: Path) -> None:
    options = small('semantic')
    values = dict(option.split('=', 1) for option in options if option.startswith('model.'))
    values = {key: json.loads(value.replace('False', 'false')) for key, value in values.items()}
    model = init_model(load_config(CONFIGS['semantic'], {'img_size': 64, **values}))
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'model.pth')
    common = ['--data-root', ade20k_root, '--cfg-options', *options]
    results = ['--out', tmp_path / 'maps', '--dump', tmp_path / 'dump.pkl', '--work-dir', tmp_path / 'work']
    tool('test.py', CONFIGS['semantic'], tmp_path / 'model.pth', *results, *common)
    for name in ('maps', 'dump.pkl'):
        arguments = [CONFIGS['semantic'], tmp_path / name, '--out', tmp_path / f'{name}.png', *common]
        tool('analysis/confusion_matrix.py', *arguments)
    maps, dump = np.load(tmp_path / 'maps.npy'), np.load(tmp_path / 'dump.pkl.npy')
    assert maps.sum() > 0
    assert (maps == dump).all()
    next((tmp_path / 'maps').glob('*.png')).unlink()
    with pytest.raises(FileNotFoundError, match='--out'):
        tool(
            'analysis/confusion_matrix.py', CONFIGS['semantic'], tmp_path / 'maps', '--out', tmp_path / 'x.png', *common
        )
    assert not (tmp_path / 'x.png').exists()


def test_confusion_is_semantic(tool: Callable, tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        tool('analysis/confusion_matrix.py', CONFIGS['panoptic'], tmp_path, '--out', tmp_path / 'a.png')


def test_label_ids_are_undone() -> None:
    cfg = load_config(next(ROOT.glob('configs/eomt/cityscapes/*dinov2-s*semantic*.py')))
    table = module('confusion_matrix.py')['labels_of_values'](cfg)
    assert [int(table[value]) for value in (7, 8, 33, 0)] == [0, 1, 18, 255]
    assert module('confusion_matrix.py')['labels_of_values'](load_config(CONFIGS['semantic'])) is None


@pytest.mark.slow
@pytest.mark.parametrize('task', ['panoptic', 'semantic', pytest.param('instance', marks=pytest.mark.slow)])
def test_how_masks_form(task: str, tool: Callable, coco_root: Path, tmp_path: Path, capsys: Any) -> None:
    options = small(task)
    values = dict(option.split('=', 1) for option in options if option.startswith(('model.', 'metainfo')))
    values = {key: json.loads(value.replace("'", '"').replace('False', 'false')) for key, value in values.items()}
    model = init_model(load_config(CONFIGS[task], {'img_size': 64, **values}))
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'model.pth')
    image = next((coco_root / 'val2017').iterdir())
    common = [CONFIGS[task], tmp_path / 'model.pth', '--out', tmp_path / 'a.png']
    tool('analysis/mask_evolution.py', image, *common, '--queries', 3, 7, '--cfg-options', *options)
    assert 'queries 3, 7' in capsys.readouterr().out
    assert (tmp_path / 'a.png').stat().st_size > 10_000
    for wrong in (['--queries', 10], ['--window', 9], ['--num-queries', 0]):
        with pytest.raises(SystemExit):
            tool('analysis/mask_evolution.py', image, *common, *wrong, '--cfg-options', *options)
    (tmp_path / 'bad.jpg').write_text('no image')
    for wrong in ('none.jpg', tmp_path / 'bad.jpg'):
        capsys.readouterr()
        with pytest.raises(SystemExit):
            tool('analysis/mask_evolution.py', wrong, *common, '--cfg-options', *options)
        assert str(wrong) in capsys.readouterr().err.splitlines()[-1]


def test_last_prediction_is_the_models() -> None:
    options = {'img_size': 64, 'model.backbone.depth': 3, 'model.panoptic_head.num_queries': 10}
    model = init_model(load_config(CONFIGS['panoptic'], options))
    inputs = torch.randn(3, 64, 64)
    with torch.no_grad():
        class_logits, _ = model(inputs[None], mode='tensor')
    tool = module('mask_evolution.py')
    classes, masks = tool['evolution'](model, inputs)
    assert classes.shape[:2] == (4, 10)
    assert masks.shape == (4, 10, 64, 64)
    assert torch.equal(classes[-1], class_logits[-1][0].softmax(-1))
    assert not torch.equal(classes[0], classes[-1])
    best = tool['best_queries'](classes, masks, 4)
    assert len(set(best)) == 4
    figure = tool['draw'](np.zeros((64, 64, 3), np.uint8), classes, masks, best, model.dataset_meta['classes'])
    titles = [axes.get_title() for axes in figure.axes]
    assert titles[0] == f'query {best[0]}'
    assert titles[1].startswith('before joint block 0\n')
    assert titles[4].startswith('final\n')
    assert sum('\n' in title for title in titles) == 4
