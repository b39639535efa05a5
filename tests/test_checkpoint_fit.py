"""Weights of another model are refused with what differs; the tools' own tests show the hook at work."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from mmengine.runner import BaseLoop, EpochBasedTrainLoop
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
    assert check_fit(MODEL, {}, 'x.pth', allow_missing=True) == list(MODEL)
    with pytest.raises(ValueError, match=r'\(1,\) in the file'):
        check_fit(MODEL, {'1.bias': torch.zeros(1)}, 'x.pth', allow_missing=True)


def test_long_lists_are_cut() -> None:
    model = {str(k): torch.zeros(1) for k in range(20)}
    with pytest.raises(ValueError, match=r'\.\.\. and 12 more'):
        check_fit(model, {}, 'x.pth')
    assert listed_names(['a', 'b']) == 'a, b'
    assert listed_names([str(k) for k in range(9)]) == '0, 1, 2, 3, 4, 5, 6, 7 and 1 more'


def with_classes(number: int) -> nn.Module:
    parts = dict(class_predictor=nn.Linear(2, number), other=nn.Linear(2, 2))
    return nn.ModuleDict(dict(head=nn.ModuleDict(parts)))


def runner_of(model: nn.Module, begins_training: bool) -> Any:
    loop = BaseLoop.__new__(EpochBasedTrainLoop) if begins_training else None
    return SimpleNamespace(model=model, _train_loop=loop, _resume=False, _load_from='x.pth')


@pytest.mark.parametrize(
    ('class_head', 'classes', 'kept'),
    [('auto', 3, True), ('auto', 4, False), (False, 3, False), (True, 3, True)],
)
def test_class_predictor_at_the_begin_of_a_training(class_head: Any, classes: int, kept: bool) -> None:
    hook, saved = CheckpointFitHook(class_head), with_classes(classes).state_dict()
    hook.after_load_checkpoint(runner_of(with_classes(3), begins_training=True), dict(state_dict=saved))
    assert ('head.class_predictor.weight' in saved) == kept and 'head.other.weight' in saved


def test_testing_takes_every_class_row_whatever_the_setting() -> None:
    model, saved = with_classes(3), with_classes(4).state_dict()
    for class_head in ('auto', False):
        with pytest.raises(ValueError, match=r'class_predictor\.weight: \(4, 2\) in the file, \(3, 2\)'):
            CheckpointFitHook(class_head).after_load_checkpoint(runner_of(model, False), dict(state_dict=dict(saved)))


def test_other_values_are_refused() -> None:
    with pytest.raises(ValueError, match="class_head='yes': True, False or 'auto'"):
        CheckpointFitHook('yes')  # type: ignore[arg-type]
