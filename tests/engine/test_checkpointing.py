"""Checkpoints of runs that are killed at any moment, run out of disk or find damaged files, and what a resume takes."""

import ast
import errno
import os
from pathlib import Path
from typing import Any

import eomt_mm  # noqa: F401  isort: skip
import pytest
from counting_runs import (
    BY_EPOCH,
    STEPS,
    Killed,
    Score,
    files,
    full_disk,
    info,
    killing,
    load,
    make_runner,
    quick,
    resumed,
    state,
)
from mmengine.hooks import Hook
from mmengine.runner import Runner

from eomt_mm.engine.checkpointing import VALIDATION_DUE, SafeCheckpointHook
from eomt_mm.engine.resuming import latest_whole_checkpoint

__all__ = ['quick']  # an autouse fixture


def in_folder(found: dict[str, Any], old: Path, new: Path) -> Any:
    return ast.literal_eval(repr(found).replace(str(old), str(new)))


@pytest.fixture(scope='module')
def moments(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[list[str], dict[str, Any], Path]]:
    """Per kind of run: its moments, and what it leaves when nothing interrupts it."""
    found = {}
    for kind, options in KINDS.items():
        work_dir = tmp_path_factory.mktemp('whole')
        with killing() as passed:
            make_runner(work_dir, **options).train()
        found[kind] = passed, state(work_dir), work_dir
    return found


KINDS: dict[str, dict[str, Any]] = {
    'steps': {},
    'epochs': BY_EPOCH,
    'two metrics': dict(checkpoint=dict(save_best=['score', 'other/score'])),
}


def kill_and_resume(work_dir: Path, moment: int, **options: Any) -> tuple[str | None, list[int]]:
    """The checkpoint that a killed run leaves, and the steps that the resumed run validates."""
    with killing(after=moment), pytest.raises(Killed):
        make_runner(work_dir, **options).train()
    left = latest_whole_checkpoint(work_dir)
    if left:
        for key, value in info(left).items():
            if key.startswith('best_ckpt'):
                assert Path(value).is_file(), f'{left} names {value}'
    validated: list[int] = []
    make_runner(work_dir, validated, load_from=left, **options).train()
    return left, validated


def test_uninterrupted_run(moments: dict[str, Any]) -> None:
    for kind, best in (('steps', 7), ('two metrics', 7)):
        found = moments[kind][1]
        assert found['step'] == (0, STEPS)
        assert found['info']['keep_ckpt_ids'] == [STEPS]
        assert found['info'][VALIDATION_DUE] is False
        assert f'best_score_iter_{best}.pth' in found['files']
    assert moments['steps'][1]['info']['best_score'] == 0.9
    assert moments['steps'][1]['files'] == ['best_score_iter_7.pth', 'iter_7.pth', 'last_checkpoint']
    assert moments['two metrics'][1]['info']['best_score_other/score'] == -0.3
    assert 'best_other_score_iter_4.pth' in moments['two metrics'][1]['files']
    assert moments['epochs'][1]['files'] == ['best_score_epoch_2.pth', 'epoch_3.pth', 'last_checkpoint']
    assert moments['epochs'][1]['step'] == (3, 6)


def test_old_files_go_after_the_new_ones_are_there(moments: dict[str, Any]) -> None:
    passed, at = moments['steps'][0], moments['steps'][0].index
    for new, old in (('iter_6', 'iter_3'), ('iter_7', 'iter_6'), ('best_score_iter_7', 'best_score_iter_6')):
        written, deleted = at(f'after writing {new}.pth'), at(f'before deleting {old}.pth')
        assert written < passed.index('after writing last_checkpoint', written) < deleted
    # the best one of step 2 is the best that iter_6 knew of, until it was saved after the validation
    assert passed[: at('before deleting best_score_iter_2.pth')].count('after writing iter_6.pth') == 2


# From the first write of step 6 to the deletion of its predecessors: saved, validated, best replaced, saved again.
@pytest.mark.parametrize('moment', range(21))
def test_killed_around_a_validation_and_resumed(moment: int, moments: dict[str, Any], tmp_path: Path) -> None:
    passed, expected, whole = moments['steps']
    moment += passed.index('before writing iter_6.pth')
    _, validated = kill_and_resume(tmp_path, moment)
    assert state(tmp_path) == in_folder(expected, whole, tmp_path)
    done = passed[: moment + 1]
    saved_again = [i for i, name in enumerate(done) if name == 'after writing iter_6.pth'][1:]
    if saved_again:
        assert validated == [7]
    elif 'after writing iter_6.pth' in done:
        assert validated == [6, 7]
    else:
        assert validated == [4, 6, 7]


@pytest.mark.slow
@pytest.mark.parametrize('kind', KINDS)
def test_killed_at_any_moment_and_resumed(kind: str, moments: dict[str, Any], tmp_path: Path) -> None:
    passed, expected, whole = moments[kind]
    assert len(passed) > 40
    for moment in range(len(passed)):
        work_dir = tmp_path / str(moment)
        left, _ = kill_and_resume(work_dir, moment, **KINDS[kind])
        assert state(work_dir) == in_folder(expected, whole, work_dir), passed[moment]
        assert (left is None) == (
            f'after writing {"epoch_2" if kind == "epochs" else "iter_3"}.pth' not in passed[: moment + 1]
        )


def test_validation_that_never_ends_is_begun_by_every_resumed_run(tmp_path: Path) -> None:
    evaluate = Score.compute_metrics

    def die(self: Score, results: list[int]) -> dict[str, float]:
        if results[0] == 6:
            raise Killed
        return evaluate(self, results)

    for run in range(3):
        validated: list[int] = []
        with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
            patch.setattr(Score, 'compute_metrics', die)
            resumed(tmp_path, validated).train()
        assert validated == ([2, 4] if run == 0 else [])
        assert latest_whole_checkpoint(tmp_path) == str(tmp_path / 'iter_6.pth')


def test_finished_run_is_not_validated_again(tmp_path: Path) -> None:
    make_runner(tmp_path).train()
    written = (tmp_path / 'iter_7.pth').stat().st_mtime_ns
    validated: list[int] = []
    resumed(tmp_path, validated).train()
    assert validated == []
    assert (tmp_path / 'iter_7.pth').stat().st_mtime_ns == written


def test_what_a_killed_run_left_is_cleared_away(tmp_path: Path) -> None:
    for name in ('.iter_3.pth.4194305-0123abcd.part', '.last_checkpoint.4194305-0123abcd.part'):
        (tmp_path / name).touch()
    make_runner(tmp_path).train()
    assert files(tmp_path) == ['best_score_iter_7.pth', 'iter_7.pth', 'last_checkpoint']


# Full disk ------------------------------------------------------------------------------------------------------------


def test_training_goes_on_where_a_checkpoint_cannot_be_written(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = {}
    evaluate = Score.compute_metrics

    def look(self: Score, results: list[int]) -> dict[str, float]:
        if results[0] == 6:
            seen.update(files=files(tmp_path), last=Path((tmp_path / 'last_checkpoint').read_text()).name)
        return evaluate(self, results)

    monkeypatch.setattr(Score, 'compute_metrics', look)
    with full_disk('iter_6.pth'):
        make_runner(tmp_path).train()
    assert seen == dict(files=['best_score_iter_2.pth', 'iter_3.pth', 'last_checkpoint'], last='iter_3.pth')
    assert files(tmp_path) == ['best_score_iter_7.pth', 'iter_7.pth', 'last_checkpoint']
    assert info(tmp_path / 'iter_7.pth')['keep_ckpt_ids'] == [7]
    errors = [line for line in capsys.readouterr().out.splitlines() if 'ERROR' in line]
    assert len(errors) == 2  # before the validation and after
    for words in (f'{tmp_path}/iter_6.pth could not', 'No space left', 'GiB free', 'training continues', 'iter_3.pth'):
        assert words in errors[0]


def test_last_checkpoint_that_cannot_be_written_ends_the_run_with_an_error(tmp_path: Path) -> None:
    with full_disk('iter_7.pth'), pytest.raises(OSError, match=r'iter_7\.pth could not be .*free.*iter_6.*--resume'):
        make_runner(tmp_path).train()
    assert files(tmp_path) == ['best_score_iter_6.pth', 'iter_6.pth', 'last_checkpoint']
    validated: list[int] = []
    resumed(tmp_path, validated).train()
    assert validated == [7]
    assert files(tmp_path) == ['best_score_iter_7.pth', 'iter_7.pth', 'last_checkpoint']


def test_best_checkpoint_that_cannot_be_written_is_not_the_best(tmp_path: Path) -> None:
    with full_disk('best_score_iter_6.pth', 'best_score_iter_7.pth'):
        make_runner(tmp_path).train()
    assert files(tmp_path) == ['best_score_iter_2.pth', 'iter_7.pth', 'last_checkpoint']
    known = info(tmp_path / 'iter_7.pth')
    assert (known['best_score'], Path(known['best_ckpt']).name) == (0.5, 'best_score_iter_2.pth')


def test_first_checkpoint_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    options = dict(checkpoint=dict(save_best=None))
    with full_disk('iter_3.pth', 'iter_6.pth', 'iter_7.pth'), pytest.raises(OSError, match='one is None'):
        make_runner(tmp_path, **options).train()
    assert files(tmp_path) == []


def test_pointer_that_cannot_be_written_is_not_needed(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    with full_disk('last_checkpoint'):
        make_runner(tmp_path).train()
    assert files(tmp_path) == ['best_score_iter_7.pth', 'iter_7.pth']
    assert latest_whole_checkpoint(tmp_path) == str(tmp_path / 'iter_7.pth')
    assert f'{tmp_path}/last_checkpoint' in capsys.readouterr().out


def test_file_that_cannot_be_deleted_does_not_end_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str) -> None:
        raise PermissionError(errno.EACCES, 'Permission denied', path)

    monkeypatch.setattr(os, 'remove', refuse)
    make_runner(tmp_path).train()
    assert {'iter_3.pth', 'iter_6.pth', 'iter_7.pth'} < set(files(tmp_path))


# Other ways to run ----------------------------------------------------------------------------------------------------


class StopAt(Hook):
    def __init__(self, step: int) -> None:
        self.step = step

    def after_train_iter(self, runner: Runner, *_: Any, **__: Any) -> None:
        runner.train_loop.stop_training = runner.iter + 1 == self.step


@pytest.mark.parametrize('save_last', [True, False])
def test_run_that_another_hook_ends_is_saved(save_last: bool, tmp_path: Path) -> None:
    make_runner(tmp_path, checkpoint=dict(save_last=save_last), custom_hooks=[StopAt(5)]).train()
    last = 'iter_5.pth' if save_last else 'iter_3.pth'
    assert files(tmp_path) == ['best_score_iter_2.pth', last, 'last_checkpoint']
    meta = load(tmp_path / last)['meta']
    assert meta['iter'] == int(last[5])


def test_validation_without_training_saves_nothing(tmp_path: Path) -> None:
    runner = make_runner(tmp_path, scores={0: 0.5})
    assert runner.val()['score'] == 0.5
    assert files(tmp_path) == []


def test_resuming_in_another_folder_leaves_the_first_one_alone(tmp_path: Path) -> None:
    with killing() as passed:
        make_runner(tmp_path / 'a').train()
    make_runner(tmp_path / 'b', load_from=str(tmp_path / 'a' / 'iter_7.pth')).train()
    with killing(after=passed.index('before writing iter_7.pth')), pytest.raises(Killed):
        make_runner(tmp_path / 'c').train()
    before = files(tmp_path / 'c')
    make_runner(tmp_path / 'd', load_from=str(tmp_path / 'c' / 'iter_6.pth')).train()
    assert files(tmp_path / 'c') == before == ['best_score_iter_6.pth', 'iter_6.pth', 'last_checkpoint']
    assert files(tmp_path / 'd') == ['best_score_iter_7.pth', 'iter_7.pth', 'last_checkpoint']


def test_moved_run_keeps_one_best_checkpoint(tmp_path: Path) -> None:
    with full_disk('iter_7.pth'), pytest.raises(OSError):
        make_runner(tmp_path / 'a').train()
    os.rename(tmp_path / 'a', tmp_path / 'b')
    resumed(tmp_path / 'b').train()
    assert files(tmp_path / 'b') == ['best_score_iter_7.pth', 'iter_7.pth', 'last_checkpoint']


def test_auto_takes_the_first_metric(tmp_path: Path) -> None:
    make_runner(tmp_path, checkpoint=dict(save_best='auto')).train()
    assert 'best_score_iter_7.pth' in files(tmp_path)


def test_metric_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"save_best='PQ': .*\['other/score', 'score'\]"):
        make_runner(tmp_path, checkpoint=dict(save_best='PQ')).train()


def test_file_client_args_are_refused() -> None:
    with pytest.raises(ValueError, match='backend_args'):
        SafeCheckpointHook(file_client_args=dict(backend='disk'))
