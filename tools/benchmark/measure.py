"""Measure the sides of a comparison in turns."""

import gc
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import torch
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from benchmark import harness
from benchmark.configs import is_ours, side_config
from benchmark.flops import observe
from benchmark.harness import CLEAR_REFS, Measured, Spread, alternate, in_fresh_process, synchronize
from benchmark.models import deformable_attention
from benchmark.sides import SMALL, Side, Spec, build_side
from eomt_mm.apis.model import local_checkpoint

T = TypeVar('T')
R = TypeVar('R')


@dataclass(kw_only=True)
class Result(Measured):
    """Measurements of a side, in addition to the seconds of each round's call.

    Attributes:
        spec: of the side.
        task: of the config.
        input_size: height and width of the network's input.
        parameters: number of parameters.
        flops: operations of a call, divided by the spec's frames; see :func:`~benchmark.flops.observe`. In training:
            forward, loss and backward.
        attention: kernels that ran in a call, and how often.
        speedup: over the first side, from the rounds' ratios.
        accuracy: metrics of the config's own test.
    """

    spec: Spec
    task: str
    input_size: tuple[int, int]
    parameters: int
    flops: int
    attention: list[str]
    speedup: Spread | None = None
    accuracy: dict[str, float] = field(default_factory=dict)

    @property
    def time(self) -> Spread:
        """Seconds of a call, divided by the spec's frames."""
        return Spread.of([seconds / self.spec.frames for seconds in self.seconds])

    @property
    def images_per_second(self) -> float:
        return self.spec.batch / self.time.median


def measure(specs: Sequence[Spec], rounds: int, memory: bool = True) -> list[Result]:
    """Build all sides, time them in turns, and measure the memory of each.

    Args:
        specs: sides; all are in memory at the same time.
        rounds: timed calls of each side.
        memory: measure the memory; on the CPU, this builds every side once more, in its own process.

    Raises:
        ValueError: sides cannot be built or run (the message names all of them, before anything is timed), or their
            tasks differ in a stage other than 'model'.
    """
    sides = _attempt(build_side, specs, specs)
    _check_tasks(sides)
    results = _attempt(_observe, sides, specs)
    calls = {str(k): side.call for k, side in enumerate(sides)}
    for result, seconds in zip(results, alternate(calls, rounds).values(), strict=True):
        result.seconds = seconds
        result.speedup = results[0].time_over(result)
    calls.clear()
    sides.clear()
    if memory:
        for result in results:
            on_cuda = result.spec.device.startswith('cuda')
            result.memory = peak_memory(result.spec) if on_cuda else in_fresh_process(peak_memory, result.spec)
    return results


def peak_memory(spec: Spec) -> int | None:
    """Measure the peak bytes of a call: weights, optimiser states, and what the call adds.

    Returns:
        on CUDA, the allocator's peak; on the CPU, that of the resident set in an eager call (run it in a fresh process:
        memory that was freed before would not be counted again); None outside Linux.
    """
    on_cuda = spec.device.startswith('cuda')
    if not on_cuda and not CLEAR_REFS.exists():
        return None
    build_side(replace(spec, size=SMALL, batch=1, checkpoint=None)).call()  # loads libraries, starts threads
    if not on_cuda:
        return harness.peak_memory(lambda: build_side(spec).call)
    gc.collect()
    before = torch.cuda.memory_allocated()
    side = build_side(spec)
    side.compile()
    side.call()
    synchronize()
    torch.cuda.reset_peak_memory_stats()
    side.call()
    return torch.cuda.max_memory_allocated() - before


def accuracy(spec: Spec, data_root: str | None) -> dict[str, float]:
    """Run the config's test, at its own size and batch, and return the metrics.

    Args:
        spec: spec with a checkpoint.
        data_root: folder or zip file of the data set; None: the config's.
    """
    assert spec.checkpoint is not None
    cfg: Any = side_config(spec.config, options=spec.options, data_root=data_root)
    with tempfile.TemporaryDirectory() as folder:
        cfg.work_dir = folder
        cfg.load_from = local_checkpoint(cfg, spec.checkpoint) if is_ours(cfg) else spec.checkpoint
        runner: Any = RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)
        return {name: float(value) for name, value in runner.test().items()}


def _attempt(step: Callable[[T], R], items: Sequence[T], specs: Sequence[Spec]) -> list[R]:
    """Apply ``step`` to each item; if some fail, raise one error that names them with their reasons."""
    done, failures = [], []
    for item, spec in zip(items, specs, strict=True):
        try:
            done.append(step(item))
        except Exception as error:  # hosts may raise anything; the other sides are tried as well
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            failures.append(f'{spec.name}: {reason}')
    if failures:
        raise ValueError('\n  '.join(['these sides cannot run:', *failures]))
    return done


def _check_tasks(sides: Sequence[Side]) -> None:
    """Check that all sides have the same task, unless the stage is 'model'."""
    if len({side.task for side in sides}) > 1 and sides[0].spec.stage != 'model':
        shown = ', '.join(f'{side.spec.name} ({side.task})' for side in sides)
        raise ValueError(f'stage {sides[0].spec.stage}: the tasks of {shown} differ; compare them with --stage model')


def _observe(side: Side) -> Result:
    """Count operations in a first, eager call; then compile if the spec says so."""
    spec = side.spec
    flops, kernels = observe(side.call)
    side.compile()
    if spec.compile_mode is not None:
        side.call()
    deformable = deformable_attention(side.model, spec.device)
    assert side.input_size is not None  # the call has run
    return Result(
        name=spec.name,
        spec=spec,
        task=side.task,
        input_size=side.input_size,
        parameters=sum(parameter.numel() for parameter in side.model.parameters()),
        flops=flops // spec.frames,
        attention=[f'{count} {name}' for name, count in kernels.items()] + ([deformable] if deformable else []),
    )
