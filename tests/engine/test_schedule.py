"""Learning-rate schedule against the published formulas (spec, section 6)."""

import pytest
import torch
from mmengine.optim import OptimWrapper

from eomt_mm.core.schedules import two_stage_factor
from eomt_mm.engine.schedule import TwoStagePolyLR


def published(step: int, total: int, w0: int, w1: int, backbone: bool) -> float:
    if backbone:
        if step < w0:
            return 0.0
        if step < w0 + w1:
            return (step - w0) / w1
        return (1 - (step - w0 - w1) / (total - w0 - w1)) ** 0.9
    return step / w0 if step < w0 else (1 - (step - w0) / (total - w0)) ** 0.9


@pytest.mark.parametrize('total, w0, w1', [(88692, 500, 1000), (20192, 2000, 3000), (50, 10, 20)])
@pytest.mark.parametrize('backbone', [False, True])
def test_factor_is_the_published_one_over_a_whole_run(total: int, w0: int, w1: int, backbone: bool) -> None:
    for step in {*range(0, total, 37), w0 - 1, w0, w0 + 1, w0 + w1 - 1, w0 + w1, w0 + w1 + 1, total - 1}:
        assert two_stage_factor(step, total, (w0, w1), backbone) == published(step, total, w0, w1, backbone)


def test_no_warmup_starts_at_full_rate() -> None:
    assert two_stage_factor(0, 10, (0, 0), True) == two_stage_factor(0, 10, (0, 0), False) == 1


def make_optimizer() -> torch.optim.Optimizer:
    a, b = torch.nn.Parameter(torch.zeros(2)), torch.nn.Parameter(torch.zeros(2))
    return torch.optim.SGD([dict(params=[a], lr=1.0, is_backbone=False), dict(params=[b], lr=0.5, is_backbone=True)])


@pytest.mark.parametrize('wrapped', [False, True])
def test_scheduler_sets_the_rate_of_each_step(wrapped: bool) -> None:
    optimizer = make_optimizer()
    scheduler = TwoStagePolyLR(
        OptimWrapper(optimizer) if wrapped else optimizer, end=50, warmup_steps=(10, 20), max_warmup=1
    )
    for step in range(50):
        head, backbone = (group['lr'] for group in optimizer.param_groups)
        assert head == pytest.approx(published(step, 50, 10, 20, False))
        assert backbone == pytest.approx(0.5 * published(step, 50, 10, 20, True))
        optimizer.step()
        scheduler.step()


def test_resumed_scheduler_goes_on_where_it_was() -> None:
    optimizer = make_optimizer()
    scheduler = TwoStagePolyLR(optimizer, end=50, warmup_steps=(10, 20), max_warmup=1)
    for _ in range(17):
        optimizer.step()
        scheduler.step()
    resumed = make_optimizer()
    other = TwoStagePolyLR(resumed, end=50, warmup_steps=(10, 20), max_warmup=1)
    resumed.load_state_dict(optimizer.state_dict())
    other.load_state_dict(scheduler.state_dict())
    for _ in range(5):
        for o, s in ((optimizer, scheduler), (resumed, other)):
            o.step()
            s.step()
        assert [g['lr'] for g in resumed.param_groups] == [g['lr'] for g in optimizer.param_groups]


@pytest.mark.parametrize(
    'warmup, end, kept', [((500, 1000), 100, (8, 16)), ((20, 0), 40, (10, 0)), ((2000, 3000), 20192, (2000, 3000))]
)
def test_warmup_takes_a_quarter_of_the_schedule_at_most(
    warmup: tuple[int, int], end: int, kept: tuple[int, int]
) -> None:
    assert TwoStagePolyLR(make_optimizer(), end=end, warmup_steps=warmup).warmup_steps == kept


@pytest.mark.parametrize('arguments', [dict(warmup_steps=(-1, 5)), dict(max_warmup=0), dict(max_warmup=1.5)])
def test_wrong_warmup_is_refused(arguments: dict) -> None:
    with pytest.raises(ValueError, match='warmup_steps=.*max_warmup='):
        TwoStagePolyLR(make_optimizer(), end=50, **arguments)


def test_by_epoch_is_refused() -> None:
    with pytest.raises(ValueError, match='by_epoch'):
        TwoStagePolyLR(make_optimizer(), end=50, warmup_steps=(1, 1), by_epoch=True)
