"""tools/analysis/compare_forward.py and compare_training.py, on a tiny model."""

import argparse
import importlib
import sys
from typing import Any

import pytest
import torch
from paths import ROOT

import eomt_mm  # noqa: F401  before the hosts

TOOLS = ROOT / 'tools' / 'analysis'
ARGS = argparse.Namespace(model='tiny', size=64, batch=2, targets=3, rounds=1, threads=1)
FLAGS = ['--size=64', '--rounds=1', '--threads=1']


@pytest.fixture
def forward(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(TOOLS)
    return importlib.import_module('compare_forward')


@pytest.fixture
def training(forward: Any) -> Any:
    return importlib.import_module('compare_training')


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip('|').split('|')]


def test_forward_table(forward: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, 'argv', ['compare_forward.py', '--models=tiny', *FLAGS])
    forward.main()
    *_, head, _, row = capsys.readouterr().out.splitlines()
    assert cells(head) == ['model', 'our time', 'against timm, the ViT alone', 'transformers against ours']
    model, time, *ratios = cells(row)
    assert model == 'tiny' and time.endswith(' ms') and all(' to ' in ratio for ratio in ratios)


def test_forward_refuses_to_time_another_model(forward: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = forward.equal_pair('tiny', 64)
    images = torch.randn(1, 3, 64, 64)
    assert forward.difference(ours, theirs, images) < 1e-5
    with torch.no_grad():
        ours.panoptic_head.upscale[-1].norm.weight.add_(0.1 * torch.randn(32))
    monkeypatch.setattr(forward, 'equal_pair', lambda *_: (ours, theirs))
    with pytest.raises(RuntimeError, match='tiny: outputs differ'):
        forward.times('tiny', ARGS)


def test_training_steps_start_from_equal_losses(training: Any) -> None:
    """But for the points, which each side draws: so with masks that are the same everywhere."""
    images, targets = training.make_batch(ARGS)
    assert targets[0]['masks'].shape == (3, 64, 64) and targets[0]['masks'].flatten(1).any(1).all()
    everywhere = [dict(target, masks=torch.ones_like(target['masks'])) for target in targets]
    losses = []
    for side, network in zip(training.SIDES, training.equal_pair('tiny', 64), strict=True):
        training.make_step(side, network, ARGS)  # switches masks and training on
        assert network.training
        with torch.no_grad():
            make = dict(eomt_mm=training.our_loss, transformers=training.their_loss)[side]
            losses.append(float(make(network, images, everywhere)()))
    assert losses[0] == pytest.approx(losses[1], rel=0.02)


def test_a_step_changes_the_weights(training: Any) -> None:
    for side, network in zip(training.SIDES, training.equal_pair('tiny', 64), strict=True):
        before = [parameter.detach().clone() for parameter in network.parameters()]
        training.make_step(side, network, ARGS)()
        assert not any(torch.equal(one, other) for one, other in zip(network.parameters(), before, strict=True))


def test_training_table(training: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, 'argv', ['compare_training.py', '--model=tiny', *FLAGS])
    monkeypatch.setattr(
        training, 'in_fresh_process', lambda _, side, args: dict(eomt_mm=30_000_000, transformers=40_000_000)[side]
    )
    training.main()
    *_, head, _, ours, theirs = capsys.readouterr().out.splitlines()
    assert len(cells(head)) == 5
    assert cells(ours)[0] == 'eomt_mm' and cells(ours)[3:] == ['30 MB', '0.75']
    assert cells(theirs)[0] == 'transformers' and cells(theirs)[2:] == ['1.00 (1.00 to 1.00)', '40 MB', '1.00']


def test_peak_of_a_side(training: Any) -> None:
    assert training.peak_of_steps('transformers', ARGS) > 100e6
