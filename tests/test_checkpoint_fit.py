"""Weights of another model are refused with what differs; the tools' own tests show the hook at work."""

import pytest
import torch
from torch import nn

from eomt_mm.checkpoints.fit import check_fit

MODEL = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 4)).state_dict()


def test_own_weights_fit() -> None:
    check_fit(MODEL, MODEL, 'x.pth')
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
    check_fit(MODEL, {}, 'x.pth', allow_missing=True)
    with pytest.raises(ValueError, match=r'\(1,\) in the file'):
        check_fit(MODEL, {'1.bias': torch.zeros(1)}, 'x.pth', allow_missing=True)


def test_long_lists_are_cut() -> None:
    model = {str(k): torch.zeros(1) for k in range(20)}
    with pytest.raises(ValueError, match=r'\.\.\. and 12 more'):
        check_fit(model, {}, 'x.pth')
