"""tools/analysis/memory.py: what it counts, and the table that it writes."""

import importlib.util
import sys
from typing import Any

import pytest
import torch
from paths import ROOT

from eomt_mm.apis import load_config

SIZE = (64, 64)
CONFIG = ROOT / 'configs' / 'eomt' / 'coco' / 'eomt_dinov2-s_24e_coco-panoptic-640.py'
TINY = {
    'img_size': SIZE[0],
    'model.backbone.depth': 2,
    'model.backbone.embed_dim': 32,
    'model.backbone.num_heads': 2,
    'model.panoptic_head.num_queries': 7,
    'model.panoptic_head.num_blocks': 1,
    'model.panoptic_head.criterion.num_points': 32,
}
GIB = 2**30


@pytest.fixture(scope='module')
def memory() -> Any:
    spec: Any = importlib.util.spec_from_file_location('memory', ROOT / 'tools' / 'analysis' / 'memory.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope='module')
def tiny() -> Any:
    return load_config(CONFIG, TINY)


def test_live_bytes_are_counted_once_and_given_back(memory: Any) -> None:
    with memory.LiveBytes() as live:
        x = torch.zeros(1000)
        view = x.view(10, 100).t()
        y = view + 1
        assert (live.now, live.peak) == (8000, 8000)
        del x
        assert live.now == 8000  # the view holds it
        del view
        assert live.now == 4000
        y.add_(1)
        del y
        assert (live.now, live.peak) == (0, 8000)


@pytest.mark.slow
@pytest.mark.parametrize('name', ['--amp, frozen, with_cp', 'float32', '--amp, accumulation'])
def test_tensors_without_content_cost_what_real_ones_do(memory: Any, tiny: Any, name: str) -> None:
    option = memory.OPTIONS[name]
    with memory.norms_in_float32(), memory.LiveBytes() as live:
        model = memory.build_model(tiny, option, 'cpu')
        memory.head_of(model).criterion.matcher = memory.FirstQueries()
        optimizer = memory.make_optimizer(model)
        images, targets = memory.make_batch(model, SIZE, 2, 3)
        memory.training_step(model, optimizer, images, targets, option)
    assert memory.estimated_peak(tiny, option, SIZE, 2, 3) == pytest.approx(live.peak, rel=0.01)


def test_what_parts_keep_is_what_the_forward_pass_leaves_alive(memory: Any, tiny: Any) -> None:
    option = memory.OPTIONS['float32']
    kept = memory.kept_by_part(tiny, option, SIZE, 2, 3)
    assert len(kept) == 6 and min(kept.values()) > 0
    with memory.LiveBytes() as live:
        model = memory.build_model(tiny, option, 'cpu')
        memory.head_of(model).criterion.matcher = memory.FirstQueries()
        images, targets = memory.make_batch(model, SIZE, 2, 3)
        before = live.now
        loss = memory.forward_loss(model, images, targets, False)
        assert sum(kept.values()) == live.now - before - loss.nbytes + images.nbytes  # the patch kernel keeps these


@pytest.mark.slow
def test_every_option_saves_memory(memory: Any, tiny: Any) -> None:
    def peak(**option: bool) -> int:
        return memory.estimated_peak(tiny, memory.Option(**option), SIZE, 4, 3)

    plain, both = peak(), peak(blocks=True, predictions=True)
    assert both < min(peak(blocks=True), peak(predictions=True)) < plain
    assert max(peak(amp=True), peak(frozen=True), peak(one_by_one=True)) < plain


def rows(memory: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *flags: str) -> list[Any]:
    """Cells of the table that the tool prints for the tiny model."""
    overrides = [f'{key}={value}' for key, value in TINY.items()]
    monkeypatch.setattr(sys, 'argv', ['memory.py', str(CONFIG), *flags, '--cfg-options', *overrides])
    memory.main(memory.make_parser().parse_args())
    return [[cell.strip() for cell in line.split('|')[1:-1]] for line in capsys.readouterr().out.strip().splitlines()]


def test_without_a_device_peaks_are_estimates(
    memory: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    monkeypatch.setattr(memory, 'estimated_peak', lambda cfg, option, size, *numbers: (size[0] + sum(numbers)) * GIB)
    head, _, *body = rows(memory, monkeypatch, capsys, '--batch', '2', '1', '--targets', '3')
    assert head == ['peak memory of a training step in GiB, estimated', *memory.OPTIONS]
    assert [row[:2] for row in body] == [[f'{CONFIG.stem}, batch 2', '69.0'], [f'{CONFIG.stem}, batch 1', '68.0']]
    accumulation = [i for i, name in enumerate(head) if 'accumulation' in name]
    assert [body[0][i] for i in accumulation] == ['69.0', '69.0'] and [body[1][i] for i in accumulation] == ['', '']


def test_with_a_device_peaks_are_measured(
    memory: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'get_device_name', lambda: 'some device')
    monkeypatch.setattr(memory, 'measured_peak', lambda cfg, option, *sizes: 2 * GIB if option.amp else None)
    head, _, body = rows(memory, monkeypatch, capsys)
    assert head[0].endswith('in GiB, measured on some device')
    assert body[0].endswith('batch 4') and {*body[1:]} == {'out of memory', '2.0'}


@pytest.mark.slow
def test_parts_are_a_table_too(
    memory: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    head, _, *body = rows(memory, monkeypatch, capsys, '--parts')
    assert head[0] == 'kept for the backward pass in GiB, counted' and len(head) == 7
    assert [row[0] for row in body] == [f'{CONFIG.stem}, batch 4, float32', f'{CONFIG.stem}, batch 4, --amp']
