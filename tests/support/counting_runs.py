"""Runs of a model that counts its steps, killed at any moment or out of disk, for the tests of checkpoints."""

import errno
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import eomt_mm  # noqa: F401  isort: skip
import pytest
import torch
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import Tensor, nn

from eomt_mm.engine.checkpointing import VALIDATION_DUE
from eomt_mm.engine.resuming import latest_whole_checkpoint
from eomt_mm.hosts.checkpoint_reading import allow_checkpoint_globals

STEPS = 7
# Score of the validation after each step: better, worse, better; all of them at other steps than 3 and 6, too.
SCORES = {2: 0.5, 4: 0.3, 6: 0.7, 7: 0.9}


class Killed(BaseException):
    """Stands for SIGKILL, but that one has no clean-up."""


class Counting(BaseModel):
    """One weight, and the number of its steps."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.register_buffer('steps', torch.zeros((), dtype=torch.long))
        self.steps: Tensor

    def train_step(self, data: Any, optim_wrapper: Any) -> dict[str, Tensor]:
        loss = (self.weight - 1).square().sum()
        optim_wrapper.update_params(loss)
        self.steps += 1
        return {'loss': loss.detach()}

    def val_step(self, data: Any) -> list[dict[str, int]]:
        return [dict(steps=int(self.steps))]

    def forward(self, *_: Any, **__: Any) -> None:
        raise NotImplementedError


class Score(BaseMetric):
    """The score of ``SCORES``; remembers which steps were validated to the end."""

    def __init__(self, scores: dict[int, float], validated: list[int]) -> None:
        super().__init__()
        self.scores, self.validated = scores, validated

    def process(self, data_batch: Any, data_samples: Any) -> None:
        self.results += [sample['steps'] for sample in data_samples]

    def compute_metrics(self, results: list[int]) -> dict[str, float]:
        self.validated.append(results[0])
        return {'score': self.scores[results[0]], 'other/score': -self.scores[results[0]]}


def make_runner(work_dir: Path, validated: list[int] | None = None, **options: Any) -> Runner:
    """A run that saves every 3 steps and validates every 2, and both after the last: 6 and 7 coincide."""
    checkpoint = dict(
        type='eomt_mm.SafeCheckpointHook', by_epoch=False, interval=3, max_keep_ckpts=1, save_best='score',
        rule='greater',
    )  # fmt: skip
    checkpoint.update(options.pop('checkpoint', {}))
    load_from = options.pop('load_from', None)
    scores = Score(options.pop('scores', SCORES), [] if validated is None else validated)
    options.setdefault('train_cfg', dict(by_epoch=False, max_iters=STEPS, val_interval=2))
    data = torch.utils.data.TensorDataset(torch.zeros(4, 1))
    sampler = 'DefaultSampler' if options['train_cfg']['by_epoch'] else 'InfiniteSampler'
    return Runner(
        Counting(),
        str(work_dir),
        train_dataloader=dict(dataset=data, batch_size=2, sampler=dict(type=sampler, shuffle=False)),
        optim_wrapper=dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=0.1)),
        val_dataloader=dict(dataset=data, batch_size=2, sampler=dict(type='DefaultSampler', shuffle=False)),
        val_cfg={},
        val_evaluator=Evaluator([scores]),
        default_hooks=dict(logger=None, checkpoint=checkpoint),
        load_from=load_from,
        resume=load_from is not None,
        log_level='WARNING',
        experiment_name=uuid.uuid4().hex,
        **options,
    )


BY_EPOCH = dict(
    train_cfg=dict(by_epoch=True, max_epochs=3, val_interval=1),
    checkpoint=dict(by_epoch=True, interval=2),
    scores={2: 0.5, 4: 0.7, 6: 0.6},
)


def resumed(work_dir: Path, validated: list[int] | None = None, **options: Any) -> Runner:
    return make_runner(work_dir, validated, load_from=latest_whole_checkpoint(work_dir), **options)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without waiting for the disk (tested by itself), for compilers and for git."""
    allow_checkpoint_globals()
    monkeypatch.setattr(os, 'fsync', lambda _: None)
    monkeypatch.setattr(Runner, '_log_env', lambda *_: None)
    for module in ('runner.runner', 'hooks.runtime_info_hook'):
        monkeypatch.setattr(f'mmengine.{module}.get_git_hash', lambda: '')


@contextmanager
def killing(after: int | None = None) -> Iterator[list[str]]:
    """Lists the moments of a run, at one of which it is killed."""
    passed: list[str] = []

    def around(action: Callable[..., Any], name: Callable[..., str]) -> Callable[..., Any]:
        def act(*arguments: Any, **options: Any) -> Any:
            for before in (True, False):
                if not before:
                    result = action(*arguments, **options)
                passed.append(f'{"before" if before else "after"} {name(*arguments)}')
                if after == len(passed) - 1:
                    raise Killed
            return result

        return act

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, 'replace', around(os.replace, lambda _, to: f'writing {os.path.basename(to)}'))
        patch.setattr(os, 'remove', around(os.remove, lambda path: f'deleting {os.path.basename(path)}'))
        patch.setattr(Counting, 'train_step', around(Counting.train_step, lambda *_: 'step'))
        patch.setattr(Score, 'process', around(Score.process, lambda *_: 'validation'))
        yield passed


@contextmanager
def full_disk(*names: str) -> Iterator[None]:
    """Files of these names cannot be written."""

    def fsync(number: int) -> None:
        if any(f'.{name}.' in os.readlink(f'/proc/self/fd/{number}') for name in names):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, 'fsync', fsync)
        yield


def load(path: Path | str) -> dict[str, Any]:
    return torch.load(path, weights_only=True)


def info(path: Path | str) -> dict[str, Any]:
    return load(path)['message_hub']['runtime_info']


def files(work_dir: Path) -> list[str]:
    """Files that the hook answers for, leftovers included."""
    return sorted(path.name for path in work_dir.iterdir() if path.is_file() and path.suffix != '.py')


def state(work_dir: Path) -> dict[str, Any]:
    """What a run leaves: files, and of its last checkpoint weights, optimiser and bookkeeping."""
    last = load(work_dir / Path((work_dir / 'last_checkpoint').read_text()).name)
    known = last['message_hub']['runtime_info']
    return dict(
        files=files(work_dir),
        last=(work_dir / 'last_checkpoint').read_text(),
        step=(last['meta']['epoch'], last['meta']['iter']),
        weights={name: value.tolist() for name, value in last['state_dict'].items()},
        optimizer={name: value.tolist() for name, value in last['optimizer']['state'][0].items()},
        info={key: value for key, value in known.items() if 'best' in key or key in ('keep_ckpt_ids', VALIDATION_DUE)},
    )
