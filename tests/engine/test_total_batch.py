"""Images per step that are not those of the learning rate are told, with what to do."""

import logging
from types import SimpleNamespace
from typing import Any

import pytest
from mmengine.config import Config

from eomt_mm.engine.total_batch import TotalBatchHook


def warnings_of(monkeypatch: pytest.MonkeyPatch, batch_size: int, world: int = 1, **cfg: Any) -> list[str]:
    logged: list[str] = []
    monkeypatch.setattr(
        'eomt_mm.engine.total_batch.print_log',
        lambda message, logger, level: logged.append(message) if level == logging.WARNING else None,
    )
    monkeypatch.setattr('eomt_mm.engine.total_batch.get_world_size', lambda: world)
    settings = dict(optim_wrapper={}, auto_scale_lr=dict(enable=False, base_batch_size=16))
    runner = SimpleNamespace(cfg=Config({**settings, **cfg}), train_dataloader=SimpleNamespace(batch_size=batch_size))
    TotalBatchHook().before_train(runner)
    return logged


@pytest.mark.parametrize(
    'batch_size, world, cfg',
    [
        (16, 1, {}),
        (4, 4, {}),
        (4, 1, dict(optim_wrapper=dict(accumulative_counts=4))),
        (4, 1, dict(auto_scale_lr=dict(enable=True, base_batch_size=16))),
        (4, 1, dict(auto_scale_lr=None)),
    ],
)
def test_published_batch_and_scaled_rates_pass_in_silence(
    monkeypatch: pytest.MonkeyPatch, batch_size: int, world: int, cfg: dict[str, Any]
) -> None:
    assert not warnings_of(monkeypatch, batch_size, world, **cfg)


def test_another_batch_is_told_with_the_hints(monkeypatch: pytest.MonkeyPatch) -> None:
    (message,) = warnings_of(monkeypatch, 4, 2)
    for part in ('8 images per step (2 processes x 4)', 'is for 16', '--auto-scale-lr', 'batch_size=8'):
        assert part in message
