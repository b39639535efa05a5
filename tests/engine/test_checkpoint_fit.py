"""Weights of another model are refused with what differs; the tools' own tests show the hook at work."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from mmengine.runner import BaseLoop, EpochBasedTrainLoop, TestLoop as Test
from torch import nn

from eomt_mm.checkpoints.fit import check_fit, listed_names
from eomt_mm.engine.checkpoint_fit import CheckpointFitHook

MODEL = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 4)).state_dict()


def test_own_weights_fit() -> None:
    assert check_fit(MODEL, MODEL, 'x.pth') == []
    check_fit(MODEL, {f'module.{name}': value for name, value in MODEL.items()}, 'x.pth')
    check_fit(MODEL, {**MODEL, 'unexpected': torch.zeros(1)}, 'x.pth')


def test_shapes_and_missing_names_are_listed() -> None:
    saved = {**MODEL, '0.weight': torch.zeros(5, 2)}
    del saved['1.bias']
    with pytest.raises(ValueError, match=r'x\.pth') as error:
        check_fit(MODEL, saved, 'x.pth')
    assert '0.weight: (5, 2) in the file, (3, 2) in the model' in str(error.value)
    assert "1 of the model's 4 weights missing:\n  1.bias" in str(error.value)


def test_missing_names_may_be_allowed_but_not_shapes() -> None:
    half = {name: MODEL[name] for name in list(MODEL)[:2]}
    assert check_fit(MODEL, half, 'x.pth', allow_missing=True) == list(MODEL)[2:]
    with pytest.raises(ValueError, match=r'\(1,\) in the file'):
        check_fit(MODEL, {**half, '1.bias': torch.zeros(1)}, 'x.pth', allow_missing=True)


WHOLE = {f'backbone.vit.blocks.{i}': torch.zeros(1) for i in range(4)} | {f'head.{i}': torch.zeros(1) for i in range(6)}


def only(*names: str) -> dict[str, torch.Tensor]:
    return {name: torch.zeros(1) for name in names}


@pytest.mark.parametrize(
    ('saved', 'parts'),
    [
        ({}, ['0 of the 10 weights of the model,', 'no weights']),
        (only('encoder.x', 'decoder.y'), ['encoder.x, decoder.y', 'backbone.vit.blocks.0', 'a checkpoint of this']),
        (only('blocks.0', 'blocks.1'), ['belongs to model.backbone.weights']),
        (only(*(f'head.{i}' for i in range(4))), ['4 of the 10 weights']),
        (
            only('backbone.vit.blocks.0', *(f'head.{i}' for i in range(6))),
            ["1 of the 4 weights of the model's backbone"],
        ),
    ],
)
def test_a_start_from_less_than_half_is_refused(saved: dict[str, torch.Tensor], parts: list[str]) -> None:
    with pytest.raises(ValueError, match=r'load_from=x\.pth holds') as error:
        check_fit(WHOLE, saved, 'x.pth', allow_missing=True)
    assert all(part in str(error.value) for part in parts), error.value
    assert '\n' not in str(error.value)


def test_a_start_from_half_or_from_a_whole_backbone_is_taken() -> None:
    backbone, head = only(*list(WHOLE)[:4]), only(*list(WHOLE)[4:])
    assert check_fit(WHOLE, backbone, 'x.pth', allow_missing=True) == list(head)
    assert check_fit(WHOLE, head, 'x.pth', allow_missing=True) == list(backbone)


def test_long_lists_are_cut() -> None:
    model = {str(k): torch.zeros(1) for k in range(20)}
    with pytest.raises(ValueError, match=r'\.\.\. and 12 more'):
        check_fit(model, {}, 'x.pth')
    assert listed_names(['a', 'b']) == 'a, b'
    assert listed_names([str(k) for k in range(9)]) == '0, 1, 2, 3, 4, 5, 6, 7 and 1 more'


def with_classes(number: int) -> nn.Module:
    parts = dict(class_predictor=nn.Linear(2, number), other=nn.Linear(2, 2))
    return nn.ModuleDict(dict(head=nn.ModuleDict(parts)))


def runner_of(model: nn.Module, begins_training: bool, classes: Sequence[str] = (), resume: bool = False) -> Any:
    loop = BaseLoop.__new__(EpochBasedTrainLoop if begins_training else Test)
    loop.dataloader = SimpleNamespace(dataset=SimpleNamespace(metainfo=dict(classes=classes)))
    loops = dict(_train_loop=None, _val_loop=None, _test_loop=None)
    loops['_train_loop' if begins_training else '_test_loop'] = loop
    return SimpleNamespace(model=model, **loops, _resume=resume, _load_from='x.pth')


@pytest.mark.parametrize(
    ('class_head', 'classes', 'kept'),
    [('auto', 3, True), ('auto', 4, False), (False, 3, False), (True, 3, True)],
)
def test_class_predictor_at_the_begin_of_a_training(class_head: Any, classes: int, kept: bool) -> None:
    hook, saved = CheckpointFitHook(class_head), with_classes(classes).state_dict()
    hook.after_load_checkpoint(runner_of(with_classes(3), begins_training=True), dict(state_dict=saved))
    assert ('head.class_predictor.weight' in saved) == kept and 'head.other.weight' in saved


def loaded(hook: CheckpointFitHook, saved_names: list[str], names: list[str], **runner: Any) -> list[str]:
    """Names of the weights that are taken."""
    checkpoint = dict(state_dict=with_classes(3).state_dict(), meta=dict(dataset_meta=dict(classes=saved_names)))
    runner = dict(begins_training=False, **runner) if 'begins_training' not in runner else runner
    hook.after_load_checkpoint(runner_of(with_classes(3), classes=names, **runner), checkpoint)
    return list(checkpoint['state_dict'])


@pytest.mark.parametrize('use', [{}, dict(begins_training=True), dict(begins_training=True, resume=True)])
@pytest.mark.parametrize(('names', 'what'), [(['b', 'a'], "'a' is class 0 .* class 1"), (['a', 'x'], "'b' is 'x'")])
def test_other_class_names_are_refused(use: dict[str, bool], names: list[str], what: str) -> None:
    with pytest.raises(ValueError, match=f'x.pth is for other classes: .*{what}.*same_classes=False') as error:
        loaded(CheckpointFitHook(), ['a', 'b'], names, **use)
    assert 'a, b; the data have ' + ', '.join(names) in str(error.value)
    assert ("class_head='auto'" in str(error.value)) == (use == dict(begins_training=True))
    loaded(CheckpointFitHook(same_classes=False), ['a', 'b'], names, **use)


def test_a_start_without_class_rows_may_be_for_other_names() -> None:
    for class_head in ('auto', False):
        taken = loaded(CheckpointFitHook(class_head), ['a', 'b'], ['b', 'a'], begins_training=True)
        assert taken == ['head.other.weight', 'head.other.bias']
    assert len(loaded(CheckpointFitHook('auto'), ['a', 'b'], ['a', 'b'], begins_training=True)) == 4


def test_testing_takes_every_class_row_whatever_the_setting() -> None:
    model, saved = with_classes(3), with_classes(4).state_dict()
    for class_head in ('auto', False):
        with pytest.raises(ValueError, match=r'class_predictor\.weight: \(4, 2\) in the file, \(3, 2\)'):
            CheckpointFitHook(class_head).after_load_checkpoint(runner_of(model, False), dict(state_dict=dict(saved)))


def test_other_values_are_refused() -> None:
    with pytest.raises(ValueError, match="class_head='yes': True, False or 'auto'"):
        CheckpointFitHook('yes')  # type: ignore[arg-type]
