"""tools/benchmark/compare.py: its subjects on small problems, and what it prints and writes."""

import json
import sys
from argparse import Namespace
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tool_runs import CONFIGS

from benchmark import forms
from benchmark.subject import LEAF, Subject, agreement, check, check_maps, check_tensors, load_subjects, measure
from benchmark.subjects import head, metrics, network

Tool = Callable[..., None]
MODEL = ['img_size=64', 'model.backbone.depth=3', 'model.backbone.embed_dim=32', 'model.backbone.num_heads=2']
MODEL += ['model.panoptic_head.num_queries=10']
QUICK = ['--rounds', 1, '--threads', 1, '--no-memory']
CRITERION = dict(size=64, batch=2, targets=3, layers=2, queries=10, points=50, forward_only=False)
FAKE_PANOPTICAPI = """
class Stat:
    def pq_average(self, categories, isthing):
        return {}, {id_: dict(pq=0.0, sq=0.0, rq=0.0) for id_ in categories}

def pq_compute_single_core(proc_id, pairs, *_):
    print('Core: 0, 0 from 2 images processed')
    return Stat()
"""


@pytest.fixture
def compare(tool: Tool, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[str, Any]]:
    """Runs the tool; what it prints and its json."""

    def run(*arguments: object) -> tuple[str, Any]:
        out = tmp_path / 'out.json'
        tool('benchmark/compare.py', *arguments, *QUICK, '--out', out)
        return capsys.readouterr().out, json.loads(out.read_text())

    return run


def names(content: Any) -> list[str]:
    return [side['name'] for side in content['sides']]


def test_forward(compare: Callable[..., tuple[str, Any]]) -> None:
    printed, content = compare('forward', '--size', 64, '--base', 'timm', '--cfg-options', *MODEL)
    assert f'forward: config {LEAF}, size 64, batch 1, ' in printed
    assert '| side | time (ms) | over timm |' in printed and 'results of transformers differ from those of' in printed
    assert names(content) == ['eomt_mm', 'timm', 'transformers'] and content['options']['size'] == 64
    assert all(len(side['seconds']) == 1 and side['memory'] is None for side in content['sides'])


def test_a_peer_without_such_a_model_is_left_out(compare: Callable[..., tuple[str, Any]]) -> None:
    _, content = compare('forward', CONFIGS['panoptic'], '--size', 64)
    assert names(content) == ['eomt_mm', 'timm']


def training_args(**changes: Any) -> Namespace:
    options = {key: int(value) for key, value in (text.split('=') for text in MODEL)}
    return Namespace(config=LEAF, size=64, batch=1, targets=3, cfg_options=options | changes)


def test_training_steps_start_from_equal_predictions_and_change_them() -> None:
    subject = load_subjects()['training']
    calls = subject.calls(subject.problem(training_args()))
    first, second = ({name: call() for name, call in calls.items()} for _ in range(2))
    assert 'results of transformers differ' in subject.check(first)
    assert not any(torch.equal(first[name][1], second[name][1]) for name in ('eomt_mm', 'transformers'))


def test_losses_agree_where_both_sides_draw_the_same_points() -> None:
    subject, args = load_subjects()['criterion'], Namespace(**CRITERION)
    assert 'results of mmdet differ' in check(subject, args)
    with pytest.raises(RuntimeError, match='results of mmdet differ from those of eomt_mm by'):
        check(replace(subject, exact={}), args)


def test_gradients_start_anew_with_each_call() -> None:
    call = head.criterion(head.criterion_problem(Namespace(**CRITERION)))
    found = []
    for _ in range(2):
        torch.manual_seed(0)
        found.append(call())
    assert len(found[0]) == 5 and all(torch.equal(one, other) for one, other in zip(*found, strict=True))


@pytest.mark.parametrize(
    ('task', 'sides'), [('panoptic', ['eomt_mm', 'mmdet', 'transformers']), ('instance', ['eomt_mm', 'mmdet'])]
)
def test_postprocess(task: str, sides: list[str], compare: Callable[..., tuple[str, Any]]) -> None:
    _, content = compare('postprocess', '--task', task, '--size', 64, '--ori-size', 48, 64)
    assert names(content) == sides
    assert ('mmdet 100.00%' in content['agreement']) == (task == 'panoptic')


def test_file_to_panoptic(compare: Callable[..., tuple[str, Any]]) -> None:
    _, content = compare('file_to_panoptic', '--ori-size', 48, 64, '--cfg-options', *MODEL)
    assert names(content) == ['eomt_mm', 'transformers']
    assert content['agreement'] == 'pixels whose segments are those of eomt_mm: transformers 100.00%'


def test_instance_ap(compare: Callable[..., tuple[str, Any]]) -> None:
    printed, content = compare('instance_ap', '--num-images', 3, '--num-predictions', 10, '--ori-size', 48, 64)
    assert names(content) == ['eomt_mm', 'mmdet'] and content['agreement'].startswith('mAP: eomt_mm 0.')
    assert 'Average Precision' not in printed


def test_pipeline(compare: Callable[..., tuple[str, Any]], coco_root: Path) -> None:
    options = ['--data-root', coco_root, '--split', 'val2017', '--shapes', '--size', 64]
    assert names(compare('pipeline', *options)[1]) == ['eomt_mm', 'mmdet']
    for name in ('panopticapi', 'panopticapi.utils'):  # mmdet's loading found a stand-in
        sys.modules.pop(name, None)


# Panoptic quality, whose peer has a Python of its own


PQ = ['pq', '--num-images', 2, '--ori-size', 48, 64, '--panopticapi-python', sys.executable]


def test_pq_beside_another_process(
    compare: Callable[..., tuple[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / 'panopticapi'
    package.mkdir()
    (package / 'evaluation.py').write_text(FAKE_PANOPTICAPI)
    monkeypatch.setenv('PYTHONPATH', str(tmp_path))
    _, content = compare(*PQ)
    assert names(content) == ['eomt_mm', 'panopticapi']
    assert content['agreement'].startswith('PQ 0.') and content['agreement'].endswith('by 1.0e+00 at most')


def test_pq_without_panopticapi(tool: Tool, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        tool('benchmark/compare.py', *PQ)
    errors = capfd.readouterr().err
    assert "No module named 'panopticapi'" in errors and 'is it installed there?' in errors.splitlines()[-1]


def test_maps_in_memory_give_the_same_qualities() -> None:
    options = dict(num_images=2, num_segments=12, ori_size=(48, 64), panopticapi_python='')
    files, memory = (metrics.pq(metrics.pq_problem(Namespace(**options, in_memory=way)))() for way in (False, True))
    assert repr(files) == repr(memory) and len(files) == 133
    other = {id_: list(np.nan_to_num(qualities)) for id_, qualities in files.items()}
    assert 'by 0.0e+00 at most' in metrics.check_qualities(dict(eomt_mm=files, panopticapi=other))
    other['7'][1] += 0.25
    assert 'by 2.5e-01 at most' in metrics.check_qualities(dict(eomt_mm=files, panopticapi=other))


# What is said


def test_results_that_differ_are_not_timed() -> None:
    one, other = torch.tensor([0.0, 2.0]), torch.tensor([0.0, 2.1])
    assert (
        check_tensors(dict(a=[one], b=[one], c=None)) == 'results of b differ from those of a by 0.0e+00 of their range'
    )
    with pytest.raises(RuntimeError, match='results of b differ from those of a by 4.8e-02 of their range'):
        check_tensors(dict(a=[one], b=[other]))


def test_a_peer_registers_its_side() -> None:
    subject = Subject(help='', problem=lambda args: args.value, check=check_tensors)
    subject.side('ours')(lambda value: lambda: [torch.arange(value)])
    subject.side('absent')(lambda value: None)

    @subject.side('peer')
    def peer(value: int) -> Callable[[], list[torch.Tensor]]:
        return lambda: [torch.arange(value)]

    assert check(subject, Namespace(value=3)) == 'results of peer differ from those of ours by 0.0e+00 of their range'


def test_segments_agree_whatever_their_numbers() -> None:
    one = torch.tensor([[1, 1, 2, 2], [3, 3, 3, 3]])
    assert agreement(one, torch.tensor([[7, 7, 0, 0], [5, 5, 5, 5]])) == 1
    assert agreement(one, torch.tensor([[7, 7, 7, 7], [5, 5, 5, 5]])) == 0.75


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['criterion', '--rounds', 0], '--rounds 0: at least 1'),
        (['forward', 'mmdet::mask2former/mask2former_r50_8xb2-lsj-50e_coco-panoptic'], 'is none of EoMT'),
        (['file_to_panoptic', CONFIGS['semantic']], 'its task is semantic, not panoptic'),
        (['forward', 'nothing'], "config 'nothing' does not exist"),
        (['criterion', '--out', '.'], 'it is a folder; name a file'),
    ],
)
def test_what_cannot_be_is_said_in_one_line(
    arguments: list[object], message: str, tool: Tool, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        tool('benchmark/compare.py', *arguments)
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith('compare.py: error: ') and message in last


@pytest.mark.slow
def test_memory_of_fresh_processes() -> None:
    """At least the gradient of a layer's mask logits, 36 MB, which is most of what a step adds."""
    args = dict(CRITERION, size=256, queries=1100, rounds=1, threads=1, no_memory=False)
    ours_, theirs = measure('criterion', Namespace(**args))
    assert ours_.memory is not None and theirs.memory is not None
    assert 36e6 < ours_.memory < theirs.memory < 4e9


@pytest.mark.slow
def test_memory_of_a_training_holds_weights_and_optimiser() -> None:
    args = training_args(**{'model.backbone.embed_dim': 512})
    model = network.network(load_subjects()['training'].problem(args).cfg)
    weights = 4 * sum(parameter.numel() for parameter in model.parameters())
    for side in measure('training', Namespace(**vars(args), rounds=1, threads=1, no_memory=False)):
        assert side.memory is not None and 3 * weights < side.memory < 8 * weights + 500e6


# Forms: PyTorch in bfloat16, compiled, and exported ----------------------------------------------------------------


def test_bfloat16_is_a_further_side(compare: Callable[..., tuple[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forms, 'lacks_bfloat16', lambda: False)
    printed, content = compare('forward', '--size', 64, '--forms', 'bf16', '--cfg-options', *MODEL)
    sides = ['eomt_mm', 'eomt_mm bf16', 'timm', 'timm bf16', 'transformers', 'transformers bf16']
    assert sorted(names(content)) == sorted(sides)
    assert 'results of eomt_mm bf16 differ from those of eomt_mm by' in printed and 'left out' not in printed


def test_what_cannot_run_here_is_left_out_with_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forms, 'lacks_bfloat16', lambda: True)
    monkeypatch.setattr(forms, 'find_spec', lambda name: None if name in ('openvino', 'nncf') else True)
    args = Namespace(forms=['bf16', 'compiled', 'onnxruntime', 'openvino', 'openvino-bf16', 'onnxruntime-int8'])
    assert forms.chosen(args) == ['compiled', 'onnxruntime']
    assert forms.left_out(args) == [
        'left out: bf16, this processor has no bfloat16 instructions',
        'left out: openvino, openvino is not installed',
        'left out: openvino-bf16, openvino is not installed',
        'left out: onnxruntime-int8, nncf is not installed',
    ]
    assert {*forms.chosen(Namespace(forms=['all']))} >= {'compiled', 'onnxruntime'}
    assert forms.chosen(Namespace()) == []


def test_rounding_is_no_error_in_forms_of_lower_precision() -> None:
    exact, rounded = (torch.linspace(0, 1, 9),), (torch.linspace(0, 1.01, 9),)
    for form in ('bf16', 'openvino-bf16', 'openvino-int8'):
        assert 'differ from those of a by 9.9e-03' in check_tensors({'a': exact, f'a {form}': rounded, 'vit': None})
    with pytest.raises(RuntimeError, match='results of a openvino differ'):
        check_tensors({'a': exact, 'a openvino': rounded})


@pytest.mark.slow
@pytest.mark.parametrize('form', ['onnxruntime', 'openvino', 'onnxruntime-int8', 'openvino-int8', 'compiled'])
def test_forms_of_forward(form: str, compare: Callable[..., tuple[str, Any]]) -> None:
    printed, content = compare('forward', '--size', 64, '--batch', 2, '--forms', form, '--cfg-options', *MODEL)
    assert {f'eomt_mm {form}', f'timm {form}'} < {*names(content)}
    assert f'results of eomt_mm {form} differ from those of eomt_mm by' in printed


@pytest.mark.slow
@pytest.mark.parametrize('form', ['onnxruntime', 'openvino'])
def test_forms_of_file_to_panoptic(form: str) -> None:
    options = {key: int(value) for key, value in (text.split('=') for text in MODEL)}
    args = Namespace(
        config=LEAF, ori_size=(48, 60), image=None, kept=5, forms=[form],
        cfg_options=options, rounds=1, threads=1, no_memory=False,
    )  # fmt: skip
    subject = load_subjects()['file_to_panoptic']
    calls = subject.calls(subject.problem(args))
    assert list(calls) == ['eomt_mm', f'eomt_mm {form}', 'transformers']
    share = check_maps({name: calls[name]() for name in ('eomt_mm', f'eomt_mm {form}')})
    assert float(share.split()[-1].rstrip('%')) > 99
    assert next(side for side in measure('file_to_panoptic', args) if side.name == f'eomt_mm {form}').memory is None
