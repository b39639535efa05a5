"""mmengine's files, read with its own class and, where it is not installed, with a stand-in."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer

from eomt_mm.checkpoints.torch_files import read_torch
from eomt_mm.hosts.install import install


@pytest.fixture
def not_installed() -> Iterator[None]:
    """As in a process without mmengine: torch allows nothing but its own types."""
    before = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    yield
    torch.serialization.clear_safe_globals()
    torch.serialization.add_safe_globals(before)


def log_file(folder: Path) -> Path:
    history = HistoryBuffer([1.0, 2.0], [1, 1])
    content = dict(state_dict=dict(w=torch.ones(2)), meta=dict(seed=np.int64(3)), message_hub=dict(loss=history))
    torch.save(content, folder / 'iter_2.pth')
    return folder / 'iter_2.pth'


def test_a_stand_in_takes_the_place_of_the_log(tmp_path: Path, not_installed: None) -> None:
    read = read_torch(log_file(tmp_path))
    assert read['state_dict']['w'].tolist() == [1, 1]
    assert read['meta']['seed'] == 3
    assert type(read['message_hub']['loss']) is not HistoryBuffer
    assert torch.serialization.get_safe_globals() == [], 'nothing stays allowed'


def test_the_class_itself_is_used_where_it_is_installed(tmp_path: Path) -> None:
    install()
    history = read_torch(log_file(tmp_path))['message_hub']['loss']
    assert type(history) is HistoryBuffer
    assert history.max() == 2.0


class Reduced:
    """Pickles as a call."""

    def __init__(self, *call: Any) -> None:
        self.call = call

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call[0], self.call[1:]


@pytest.mark.parametrize(
    'call', [(eval, '1'), (getattr, HistoryBuffer, '__init__'), (getattr, np.ndarray, 'tofile')], ids=str
)
def test_nothing_else_is_allowed(call: tuple[Any, ...], tmp_path: Path, not_installed: None) -> None:
    torch.save(Reduced(*call), tmp_path / 'x.pth')
    with pytest.raises(ValueError, match='more than weights|no file of weights'):
        read_torch(tmp_path / 'x.pth')
    assert torch.serialization.get_safe_globals() == []
