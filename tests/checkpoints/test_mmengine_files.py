"""mmengine's files, read with its own class and, where it is not installed, with a stand-in."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer

from eomt_mm.checkpoints.torch_files import read_torch
from eomt_mm.hosts.install import install


@contextmanager
def allowed_alone(*types: Any) -> Iterator[None]:
    """As before ``install()``: torch allows its own types, and these."""
    before = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    torch.serialization.add_safe_globals(list(types))
    yield
    torch.serialization.clear_safe_globals()
    torch.serialization.add_safe_globals(before)


@contextmanager
def without_mmengine() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch, allowed_alone():
        patch.delitem(sys.modules, HistoryBuffer.__module__)
        yield


def log_file(folder: Path) -> Path:
    history = HistoryBuffer([1.0, 2.0], [1, 1])
    content = dict(state_dict=dict(w=torch.ones(2)), meta=dict(seed=np.int64(3)), message_hub=dict(loss=history))
    torch.save(content, folder / 'iter_2.pth')
    return folder / 'iter_2.pth'


def test_a_stand_in_takes_the_place_of_the_log(tmp_path: Path) -> None:
    path = log_file(tmp_path)
    with without_mmengine():
        read = read_torch(path)
        assert torch.serialization.get_safe_globals() == [], 'nothing stays allowed'
    assert read['state_dict']['w'].tolist() == [1, 1]
    assert read['meta']['seed'] == 3
    assert type(read['message_hub']['loss']) is not HistoryBuffer


def test_the_class_itself_is_used_where_it_is_imported(tmp_path: Path) -> None:
    install()
    history = read_torch(log_file(tmp_path))['message_hub']['loss']
    assert type(history) is HistoryBuffer
    assert history.max() == 2.0


def test_the_loader_of_the_fork_leaves_ours_allowed(tmp_path: Path) -> None:
    """onedl-mmengine's allows types for the time of reading, and removes them after it."""
    install()
    path = log_file(tmp_path)
    with torch.serialization.safe_globals(
        [getattr, HistoryBuffer, np.ndarray, np.dtype, np.float64(0).__reduce__()[0]]
    ):
        pass
    assert torch.load(path, weights_only=True)['message_hub']['loss'].max() == 2.0
    assert read_torch(path)['message_hub']['loss'].max() == 2.0


class Reduced:
    """Pickles as a call."""

    def __init__(self, *call: Any) -> None:
        self.call = call

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call[0], self.call[1:]


@pytest.mark.parametrize(
    'call', [(eval, '1'), (getattr, HistoryBuffer, '__init__'), (getattr, np.ndarray, 'tofile')], ids=str
)
def test_nothing_else_is_allowed(call: tuple[Any, ...], tmp_path: Path) -> None:
    torch.save(Reduced(*call), tmp_path / 'x.pth')
    with without_mmengine():
        with pytest.raises(ValueError, match='more than weights|no file of weights'):
            read_torch(tmp_path / 'x.pth')
        assert torch.serialization.get_safe_globals() == []


@pytest.mark.parametrize('owner', [HistoryBuffer, np.ndarray], ids=['history', 'array'])
def test_getattr_that_others_allowed_is_not_ours(owner: type, tmp_path: Path) -> None:
    torch.save(Reduced(getattr, owner, '__init__'), tmp_path / 'x.pth')
    with allowed_alone(getattr, (getattr, 'builtins.getattr'), owner):
        before = set(torch.serialization.get_safe_globals())
        torch.load(tmp_path / 'x.pth', weights_only=True)
        with pytest.raises(ValueError, match='more than weights'):
            read_torch(tmp_path / 'x.pth')
        assert set(torch.serialization.get_safe_globals()) == before
