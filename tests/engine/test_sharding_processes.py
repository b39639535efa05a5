"""Sharded training (fully_shard) with two processes; all of them are started once."""

from pathlib import Path
from typing import Any

import eomt_mm  # noqa: F401  isort: skip
import pytest
import torch
from copies import in_new_processes
from mmengine.runner import Runner
from sharding_runs import (
    ShardingTestHook,
    assert_same,
    config,
    flat,
    images,
    load,
    record,
    trained,
    two_processes,
)

from eomt_mm.apis import init_model
from eomt_mm.engine.sharding.runner import ShardedRunner

STEPS = range(6)
HALVES = range(3, 6)


@pytest.fixture(scope='module')
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """Folder of the runs of two processes, and what each of them saw."""
    folder = tmp_path_factory.mktemp('pair')
    in_new_processes(2, two_processes, folder)
    return folder, [load(folder / f'rank{rank}.pth') for rank in range(2)]


Pair = tuple[Path, list[dict[str, Any]]]


@pytest.mark.slow
@pytest.mark.parametrize('name', ['sharded', 'folders', 'kept_gathered'])
def test_two_sharded_processes_equal_two_of_ddp(pair: Pair, name: str) -> None:
    folder, seen = pair
    for rank in range(2):
        assert list(seen[rank]['ddp']['losses']) == list(STEPS)
        for kind in ('losses', 'norms'):
            assert seen[rank][name][kind] == pytest.approx(seen[rank]['ddp'][kind], abs=1e-6, rel=1e-6), (rank, kind)
    assert seen[0]['ddp']['losses'] != seen[1]['ddp']['losses']
    if name != 'folders':
        for part in ('state_dict', 'optimizer', 'param_schedulers'):
            assert_same(load(folder / name / 'iter_6.pth')[part], load(folder / 'ddp' / 'iter_6.pth')[part], 1e-6)


@pytest.mark.slow
@pytest.mark.parametrize('variant', ['checkpointing', 'frozen'])
def test_sharded_processes_equal_ddp_with_less_memory_too(pair: Pair, variant: str) -> None:
    for seen in pair[1]:
        expected = seen[f'ddp_{variant}']
        for kind in ('losses', 'norms'):
            assert seen[variant][kind] == pytest.approx(expected[kind], abs=1e-6, rel=1e-6)
    state = load(pair[0] / variant / 'iter_6.pth')
    assert_same(state['optimizer'], load(pair[0] / f'ddp_{variant}' / 'iter_6.pth')['optimizer'], 1e-6)


@pytest.mark.slow
@pytest.mark.parametrize('name', ['from_file', 'from_folder'])
def test_two_sharded_processes_resume_as_if_never_stopped(pair: Pair, name: str) -> None:
    folder, seen = pair
    for rank in range(2):
        assert seen[rank][name]['losses'] == {i: seen[rank]['sharded']['losses'][i] for i in HALVES}
        assert seen[rank][name]['norms'] == {i: seen[rank]['sharded']['norms'][i] for i in HALVES}
    for part in ('state_dict', 'optimizer', 'param_schedulers'):
        assert_same(load(folder / name / 'iter_6.pth')[part], load(folder / 'sharded' / 'iter_6.pth')[part])


@pytest.mark.slow
@pytest.mark.parametrize('name', ['from_ddp', 'ddp_from_sharded'])
def test_ddp_and_sharded_runs_resume_from_each_other(pair: Pair, name: str) -> None:
    for seen in pair[1]:
        expected = {i: seen['ddp']['losses'][i] for i in HALVES}
        assert seen[name]['losses'] == pytest.approx(expected, abs=1e-6, rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(('kind', 'source'), [(Runner, 'sharded/iter_3.pth'), (ShardedRunner, 'folders/iter_3.dcp')])
def test_what_two_processes_saved_one_resumes(
    pair: Pair, tmp_path: Path, kind: type[Runner], source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = load(pair[0] / 'sharded' / 'iter_3.pth')
    loaded: dict[str, Any] = {}

    def keep(hook: ShardingTestHook, runner: Any) -> None:
        loaded.update(weights=dict(runner.model.state_dict()), optimizer=runner.optim_wrapper.state_dict())
        loaded.update({name: {k: v.clone() for k, v in flat(state).items() if isinstance(v, torch.Tensor)}
                       for name, state in loaded.items()})  # fmt: skip

    monkeypatch.setattr(ShardingTestHook, 'before_train', keep)
    options = dict(launcher='none', load_from=str(pair[0] / source), resume=True)
    runner = trained(kind, tmp_path, **options)
    expected = dict(weights=dict(whole['state_dict']), optimizer=whole['optimizer'])
    for name, state in expected.items():
        tensors = {k: v for k, v in flat(state).items() if isinstance(v, torch.Tensor)}
        del tensors['/decode_head.attn_mask_probs' if name == 'weights' else '/base_param_settings/params']
        assert tensors and all(torch.equal(value, loaded[name][k]) for k, value in tensors.items())
    assert list(record(runner).losses) == list(HALVES)
    assert load(tmp_path / 'iter_6.pth')['meta']['iter'] == 6


@pytest.mark.slow
def test_what_one_process_saved_the_model_of_two_predicts(pair: Pair) -> None:
    folder, seen = pair
    model = init_model(config(folder), folder / 'sharded' / 'iter_6.pth')
    with torch.no_grad():
        class_logits, mask_logits = model(images(), mode='tensor')
    for logits in (class_logits[-1], mask_logits[-1]):
        assert len(logits)
    for rank in range(2):
        torch.testing.assert_close(seen[rank]['logits'], [class_logits[-1], mask_logits[-1]], rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_each_process_holds_half_of_parameters_and_optimiser_state(pair: Pair) -> None:
    first, second = (seen['elements'] for seen in pair[1])
    whole = first['all_params']
    assert first['params'] + second['params'] == whole
    assert first['moments'] + second['moments'] == 2 * whole
    for held in (first, second):
        assert held['params'] == pytest.approx(whole / 2, rel=0.03)
        assert held['moments'] == 2 * held['params']


@pytest.mark.slow
def test_half_precision_over_two_processes_stays_close(pair: Pair) -> None:
    for seen in pair[1]:
        assert seen['bf16']['losses'] == pytest.approx(seen['ddp']['losses'], rel=0.03)


@pytest.mark.slow
def test_a_failure_of_the_main_process_raises_in_all(pair: Pair) -> None:
    assert [seen['failure'] for seen in pair[1]] == [
        '[Errno 28] No space left on device',
        'main process: OSError: [Errno 28] No space left on device',
    ]
