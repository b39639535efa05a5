"""More targets in an image than queries: said before training."""

from types import SimpleNamespace
from typing import Any

import eomt_mm  # noqa: F401  isort: skip
import pytest
import torch
from torch.utils.data import ConcatDataset, Dataset, TensorDataset

from eomt_mm.core.head import EoMTHead
from eomt_mm.datasets import SeededDataset
from eomt_mm.engine import QueryLimitHook


class Counted(Dataset[Any]):
    def __init__(self, most: int) -> None:
        self.most_targets = (most, f'{most}.jpg')

    def __len__(self) -> int:
        return 1


@pytest.mark.parametrize(('most', 'is_said'), [(256, True), (200, False)])
def test_more_targets_than_queries(most: int, is_said: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    monkeypatch.setattr('eomt_mm.engine.query_limit.print_log', lambda text, **_: lines.append(text))
    head = EoMTHead(embed_dim=8, depth=2, patch_size=16, num_classes=2, num_queries=200)
    joined = ConcatDataset([Counted(3), Counted(most), TensorDataset(torch.zeros(1))])
    loader = SimpleNamespace(dataset=SeededDataset(joined))
    QueryLimitHook().before_train(SimpleNamespace(model=torch.nn.Sequential(head), train_dataloader=loader))
    assert ['256.jpg has 256 targets and the model 200 queries' in line for line in lines] == [True] * is_said
    assert all('num_queries=256' in line for line in lines)
