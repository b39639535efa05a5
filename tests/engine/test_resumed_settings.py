"""A resumed run follows the settings of its config: length, warm-up, rates, weight decay."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tool_runs import CONFIGS, small

from eomt_mm.engine.resuming import latest_whole_checkpoint


def train(
    tool: Callable, root: Path, work_dir: Path, steps: int, *more: Any, resume: bool = True, **options: Any
) -> Any:
    """Runs some steps; returns the last checkpoint."""
    settings = small('panoptic', steps, **{'optim_wrapper__optimizer__lr': 1e-3, **options})
    arguments = ['--data-root', root, '--work-dir', work_dir, *more, *(['--resume'] if resume else [])]
    tool('train.py', CONFIGS['panoptic'], *arguments, '--cfg-options', *settings)
    return torch.load(latest_whole_checkpoint(work_dir) or '', weights_only=True)


def log(work_dir: Path) -> str:
    return '\n'.join(path.read_text() for path in sorted(work_dir.glob('*/*.log')))


def rates(work_dir: Path) -> dict[int, float]:
    lines = [line for path in sorted(work_dir.glob('*/vis_data/scalars.json')) for line in path.open()]
    return {entry['step']: entry['lr'] for entry in map(json.loads, lines) if 'lr' in entry}


def test_a_longer_run_takes_schedule_and_warm_up_from_the_config(
    tool: Callable, coco_root: Path, tmp_path: Path
) -> None:
    """Of 16 steps the ninth has 1e-3 * (1 - 6/14)^0.9; masks that were off stay off."""
    warm_up = {'param_scheduler__0__warmup_steps': '(2,2)'}
    first = train(tool, coco_root, tmp_path, 8, resume=False, **warm_up)
    assert first['state_dict']['panoptic_head.attn_mask_probs'].max() == 0
    last = train(tool, coco_root, tmp_path, 16, **warm_up)
    assert rates(tmp_path)[9] == pytest.approx(1e-3 * (8 / 14) ** 0.9)
    assert round(rates(tmp_path)[9], 6) == 6.04e-4
    assert rates(tmp_path)[16] == pytest.approx(1e-3 * (1 / 14) ** 0.9)
    schedule = last['param_schedulers'][0]
    assert (schedule['total'], schedule['warmup_steps'], schedule['_global_step']) == (16, (2, 2), 16)
    assert last['state_dict']['panoptic_head.attn_mask_probs'].max() == 0
    assert 'masks stay at or below those in the checkpoint' in log(tmp_path)
    assert 'of the checkpoint follow the config: total 8 -> 16' in log(tmp_path)
    with pytest.raises(ValueError, match=r'iter_16\.pth is after step 16, and max_iters=12: nothing is left to train'):
        train(tool, coco_root, tmp_path, 12, **warm_up)


def test_rate_and_weight_decay_of_the_config_count(tool: Callable, coco_root: Path, tmp_path: Path) -> None:
    train(tool, coco_root, tmp_path, 2, resume=False)
    changed = {'optim_wrapper__optimizer__lr': 5e-4, 'optim_wrapper__optimizer__weight_decay': 0.2}
    last = train(tool, coco_root, tmp_path, 4, **changed)
    for group in last['optimizer']['param_groups']:
        assert (group['weight_decay'], group['initial_lr']) == (0.2, pytest.approx(5e-4 * group['lr_factor']))
    assert {int(state['step']) for state in last['optimizer']['state'].values()} == {4}
    assert rates(tmp_path)[4] == pytest.approx(5e-4 * 0.25**0.9)
    assert 'weight_decay 0.05 -> 0.2, lr 0.001 -> 0.0005' in log(tmp_path)


def test_scaled_rates_are_scaled_again(tool: Callable, coco_root: Path, tmp_path: Path) -> None:
    train(tool, coco_root, tmp_path, 2, '--auto-scale-lr', resume=False)
    last = train(tool, coco_root, tmp_path, 3, '--auto-scale-lr')
    assert last['optimizer']['param_groups'][0]['initial_lr'] == pytest.approx(1e-3 * 3 / 8)
    assert 'lr ' not in log(tmp_path).partition('follow the config: ')[2].partition('\n')[0]


def test_mmengines_schedules_are_computed_anew(tool: Callable, coco_root: Path, tmp_path: Path) -> None:
    """They derive each rate from the one before."""

    def run(work_dir: Path, steps: int, *more: str) -> Any:
        config = tmp_path / 'own.py'
        config.write_text(
            f"_base_ = ['{CONFIGS['panoptic']}']\nparam_scheduler = ["
            f"dict(type='LinearLR', start_factor=0.5, by_epoch=False, end=2), "
            f"dict(type='PolyLR', by_epoch=False, begin=2, end={steps})]\n"
        )
        options = [option for option in small('panoptic', steps) if not option.startswith('param_scheduler')]
        tool('train.py', config, '--data-root', coco_root, '--work-dir', work_dir, *more, '--cfg-options', *options)
        return torch.load(work_dir / f'iter_{steps}.pth', weights_only=True)

    run(tmp_path / 'parts', 3)
    resumed, whole = run(tmp_path / 'parts', 6, '--resume'), run(tmp_path / 'whole', 6)
    assert [rates(tmp_path / 'parts')[step] for step in (4, 5, 6)] == [
        rates(tmp_path / 'whole')[step] for step in (4, 5, 6)
    ]
    assert resumed['param_schedulers'] == whole['param_schedulers']
    groups = [[{**group, 'params': 0} for group in run['optimizer']['param_groups']] for run in (resumed, whole)]
    assert groups[0] == groups[1]


def test_other_parameter_groups_are_refused(tool: Callable, coco_root: Path, tmp_path: Path) -> None:
    train(tool, coco_root, tmp_path, 1, resume=False)
    with pytest.raises(ValueError, match=r'--resume: .*iter_1\.pth has momenta for 2 parameter groups.*layer_decay'):
        train(tool, coco_root, tmp_path, 2, optim_wrapper__paramwise_cfg__layer_decay=0.8)
    with pytest.raises(ValueError, match='other trained parameters, such as backbone'):
        train(tool, coco_root, tmp_path, 2, model__backbone__frozen_stages=0)


# Mask annealing ------------------------------------------------------------------------------------------------------


def test_hooks_of_ones_own_leave_the_annealing_in_place(tool: Callable, coco_root: Path, tmp_path: Path) -> None:
    config = tmp_path / 'own.py'
    own = "custom_hooks = [dict(type='CheckInvalidLossHook')]\nmask_annealing = dict(unit=3, total_steps=18)\n"
    config.write_text(f"_base_ = ['{CONFIGS['panoptic']}']\n{own}")
    arguments = ['--data-root', coco_root, '--work-dir', tmp_path / 'run', '--cfg-options', *small('panoptic', 1)]
    tool('train.py', config, *arguments)
    assert '(scaled from a schedule of 18)' in log(tmp_path / 'run')


@pytest.mark.parametrize('what', ['setting', 'hooks and loop', 'no masks'])
def test_the_log_says_where_nothing_anneals(what: str, tool: Callable, coco_root: Path, tmp_path: Path) -> None:
    """Also with hooks and loop of mmengine alone."""
    settings: dict[str, Any] = {'mask_annealing': None}
    if what == 'hooks and loop':
        settings = dict(default_hooks__mask_annealing=None, train_cfg__type='IterBasedTrainLoop')
    elif what == 'no masks':
        settings['model__panoptic_head__masked_attention'] = False
    train(tool, coco_root, tmp_path, 2, resume=False, **settings)
    assert log(tmp_path).count('WARNING - masks are not annealed') == (what != 'no masks')
