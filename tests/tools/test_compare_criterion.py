"""tools/analysis/compare_criterion.py, on a small problem."""

import argparse
import importlib
import sys
from typing import Any

import pytest
import torch
from paths import ROOT

SMALL = dict(size=64, batch=2, targets=3, layers=2, queries=10, points=50)


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(ROOT / 'tools' / 'analysis')  # a fresh process imports it by name, too
    return importlib.import_module('compare_criterion')


def test_both_sides_give_the_same_losses_at_equal_points(tool: Any) -> None:
    args = argparse.Namespace(**SMALL)
    sides = {name: make(args) for name, make in tool.SIDES.items()}
    assert max(tool.difference(sides, tool.make_problem(args))) < 1e-5
    other = dict(sides, mmdet=tool.mmdet_losses(argparse.Namespace(**{**SMALL, 'points': 60})))
    assert max(tool.difference(other, tool.make_problem(args))) > 1e-3


def test_gradients_start_anew_with_each_step(tool: Any) -> None:
    args = argparse.Namespace(**SMALL)
    problem, losses = tool.make_problem(args), tool.our_losses(args)
    found = []
    for _ in range(2):
        torch.manual_seed(0)
        tool.step(losses, problem)
        found.append(problem[1][0].grad.clone())
    assert torch.equal(*found) and found[0].any()


def test_report(tool: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    flags = [f'--{name}={value}' for name, value in SMALL.items()]
    monkeypatch.setattr(sys, 'argv', ['compare_criterion.py', *flags, '--rounds=2', '--threads=1'])
    monkeypatch.setattr(
        tool, 'in_fresh_process', lambda function, name, args: dict(eomt_mm=30_000_000, mmdet=40_000_000)[name]
    )
    tool.main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith('2 layers, batch 2, 10 queries, 3 targets of 64 x 64 each, 50 points, float32')
    assert [line.split('eomt_mm')[0].strip() for line in lines[2:]] == ['forward', 'forward + backward', 'peak memory']
    assert all(' x as fast (quartiles ' in line for line in lines[2:4])
    assert lines[4].endswith('eomt_mm     30 MB, mmdet     40 MB: 0.75 of it')


def test_peak_of_a_step(tool: Any) -> None:
    """At least the gradient of a layer's mask logits, 36 MB; in a fresh process, as the tool measures it."""
    args = argparse.Namespace(**{**SMALL, 'size': 256, 'queries': 1100, 'threads': torch.get_num_threads()})
    assert 30e6 < tool.in_fresh_process(tool.peak_bytes, 'eomt_mm', args) < 400e6
