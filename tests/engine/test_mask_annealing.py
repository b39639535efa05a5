"""Mask annealing against the published steps (spec, sections 6 and 9)."""

import logging
from types import SimpleNamespace
from typing import Any

import pytest
from mmengine.logging import MessageHub
from torch import nn

from eomt_mm.core.head import EoMTHead
from eomt_mm.core.schedules import annealed_keep_prob, published_steps
from eomt_mm.engine.mask_annealing import DefaultAnnealingHook, MaskAnnealingHook

PUBLISHED = {
    'A3': (88692, (14782, 36955, 59128), (29564, 51737, 73910)),
    'A4': (88692, (14782, 29564, 44346, 59128), (29564, 44346, 59128, 73910)),
    'A5': (88692, (14782, 25869, 36955, 48042, 59128), (29564, 40651, 51737, 62824, 73910)),
    'A3x2': (177384, (29564, 73910, 118256), (59128, 103474, 147820)),
    'E4': (39122, (6520, 13040, 19560, 26080), (13040, 19560, 26080, 32600)),
    'E5': (39122, (6520, 11410, 16300, 21190, 26080), (13040, 17930, 22820, 27710, 32600)),
    'C4': (19902, (3317, 6634, 9951, 13268), (6634, 9951, 13268, 16585)),
}


@pytest.mark.parametrize('name', PUBLISHED)
def test_rule_gives_the_published_steps(name: str) -> None:
    total, starts, ends = PUBLISHED[name]
    assert published_steps(len(starts), total) == list(zip(starts, ends, strict=True))


EXCEPTIONS = {
    'A4 of instance': (
        87948, dict(unit=14782, total_steps=87948), (14782, 29564, 44346, 59128), (29564, 44346, 59128, 73910)
    ),
    'A4+0': (
        88692, dict(first_block=(0, 3000), total_steps=88692), (0, 29564, 44346, 59128), (3000, 44346, 59128, 73910)
    ),
    'A3x2+0': (
        177384, dict(first_block=(0, 3000), total_steps=177384), (0, 73910, 118256), (3000, 103474, 147820)
    ),
    'DINOv3 ADE20K semantic': (
        20192, dict(unit=3260, first_block=(0, 3000), total_steps=20192),
        (0, 6520, 9780, 13040), (3000, 9780, 13040, 16300),
    ),
}  # fmt: skip


@pytest.mark.parametrize('name', EXCEPTIONS)
def test_unit_and_first_block_give_the_published_exceptions(name: str) -> None:
    total, arguments, starts, ends = EXCEPTIONS[name]
    steps = MaskAnnealingHook(**arguments).annealing.steps(len(starts), total)  # type: ignore[arg-type]
    assert steps == list(zip(starts, ends, strict=True))


def test_unit_and_first_block_scale_with_the_schedule() -> None:
    hook = MaskAnnealingHook(unit=300, first_block=(0, 100), total_steps=2000)
    assert hook.annealing.steps(3, 200) == [(0, 10), (75, 105), (120, 150)]


@pytest.mark.parametrize('total', [1, 5, 6, 20])
@pytest.mark.parametrize('num_blocks', [1, 3])
def test_short_schedules_end_without_masks(num_blocks: int, total: int) -> None:
    assert all(annealed_keep_prob(total, *steps) == 0 for steps in published_steps(num_blocks, total))


def test_keep_probability_over_a_run() -> None:
    assert annealed_keep_prob(9, 10, 20) == 1
    assert annealed_keep_prob(10, 10, 20) == 1
    assert annealed_keep_prob(15, 10, 20) == pytest.approx(0.5**0.9)
    assert annealed_keep_prob(20, 10, 20) == 0
    assert annealed_keep_prob(0, 0, 3000) == 1
    assert annealed_keep_prob(0, 0, 0) == 0


def make_runner(max_iters: int, num_blocks: int = 3) -> Any:
    head = EoMTHead(embed_dim=8, depth=6, patch_size=16, num_classes=2, num_queries=2, num_blocks=num_blocks)
    hub = MessageHub.get_instance(f'test_annealing_{id(head)}')
    return SimpleNamespace(model=nn.Sequential(head), max_iters=max_iters, iter=0, message_hub=hub, optim_wrapper={})


def test_hook_sets_and_logs_the_probability_after_each_step() -> None:
    runner, hook = make_runner(60), MaskAnnealingHook()
    hook.before_train(runner)
    head = runner.model[0]
    assert head.attn_mask_probs.tolist() == [1, 1, 1]
    for runner.iter in range(60):
        hook.after_train_iter(runner, runner.iter)
        expected = [annealed_keep_prob(runner.iter + 1, start, start + 10) for start in (10, 25, 40)]
        assert head.attn_mask_probs.tolist() == pytest.approx(expected)
        assert runner.message_hub.get_scalar('train/mask_prob_1').current() == pytest.approx(expected[1])
    assert head.attn_mask_probs.tolist() == [0, 0, 0]


def test_resumed_run_starts_at_its_step() -> None:
    runner = make_runner(60)
    runner.iter = 30
    MaskAnnealingHook().before_train(runner)
    assert runner.model[0].attn_mask_probs.tolist() == pytest.approx([0, 0.5**0.9, 1])


def test_explicit_steps_scale_with_the_schedule(caplog: pytest.LogCaptureFixture) -> None:
    hook = MaskAnnealingHook(starts=(0, 600), ends=(300, 900), total_steps=1200)
    assert hook.annealing.steps(2, 1200) == [(0, 300), (600, 900)]
    assert hook.annealing.steps(2, 120) == [(0, 30), (60, 90)]


def test_fractions() -> None:
    assert MaskAnnealingHook(starts=(0.0, 0.5), ends=(0.25, 1.0)).annealing.steps(2, 200) == [(0, 50), (100, 200)]


def test_a_run_that_ends_early_with_masks_on_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr('eomt_mm.engine.mask_annealing.print_log', lambda text, **_: said.append(text))
    runner = make_runner(60)
    hook = MaskAnnealingHook()
    hook.before_train(runner)
    hook.after_val(runner)
    assert said.pop() == 'masks are on in training until step 50, and off in validation: expect low numbers until then'
    hook.after_val(runner)
    for runner.iter, spoken in ((55, False), (60, False), (30, True)):
        said.clear()
        hook.after_train(runner)
        assert bool(said) == spoken
    assert said[0].startswith('ended after step 30 of 60 with masks on') and '\n' not in said[0]


def test_warns_where_the_run_would_end_with_masks_on(monkeypatch: pytest.MonkeyPatch) -> None:
    logged: list[tuple[int, str]] = []
    monkeypatch.setattr(
        'eomt_mm.engine.mask_annealing.print_log',
        lambda message, logger, level=logging.INFO: logged.append((level, message)),
    )
    # ends beyond the schedule's last step
    MaskAnnealingHook(starts=(0, 0, 0), ends=(10, 20, 90), total_steps=60).before_train(make_runner(60))
    assert [message for level, message in logged if level == logging.WARNING and 'masks stay on' in message]
    logged.clear()
    MaskAnnealingHook().before_train(make_runner(60))
    assert not [message for level, message in logged if level == logging.WARNING]


@pytest.mark.parametrize(
    'arguments, word',
    [
        (dict(starts=(0,)), 'ends'),
        (dict(starts=(0, 1), ends=(1,)), 'starts'),
        (dict(starts=(0.5,), ends=(0.2,)), 'start <= end'),
        (dict(starts=(0,), ends=(3000,)), 'total_steps'),
        (dict(total_steps=100), 'total_steps'),
        (dict(unit=10), 'total_steps'),
        (dict(first_block=(0, 10)), 'total_steps'),
        (dict(first_block=(20, 10), total_steps=100), r'first_block=\(20, 10\)'),
        (dict(unit=0, total_steps=100), 'unit=0'),
        (dict(starts=(0,), ends=(1,), unit=5, total_steps=100), 'not both'),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, Any], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        MaskAnnealingHook(**arguments)


def test_number_of_blocks_must_fit_the_model() -> None:
    with pytest.raises(ValueError, match='3 joint blocks'):
        MaskAnnealingHook(starts=(0, 0), ends=(1, 1)).before_train(make_runner(60))


def test_model_without_head_is_refused() -> None:
    runner = make_runner(60)
    runner.model = nn.Linear(1, 1)
    with pytest.raises(ValueError, match='Linear'):
        MaskAnnealingHook().before_train(runner)


def test_annealing_is_added_where_none_is_stated() -> None:
    def added(config: dict[str, Any], *hooks: MaskAnnealingHook, masked: bool = True) -> list[Any]:
        runner = make_runner(60)
        runner.model[0].masked_attention = masked
        runner.cfg, runner.hooks = config, list(hooks)
        runner.register_hook = runner.hooks.append
        DefaultAnnealingHook().before_run(runner)
        return runner.hooks[len(hooks) :]

    (rule,) = added({})
    assert rule.annealing.steps(3, 60) == published_steps(3, 60)
    (stated,) = added({'mask_annealing': dict(unit=5, total_steps=60)})
    assert stated.annealing.unit == 5
    assert added({}, rule) == added({'mask_annealing': None}) == added({}, masked=False) == []
