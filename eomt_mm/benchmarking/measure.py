"""Measures the sides of a comparison, in turns."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from eomt_mm.benchmarking.build import build_side
from eomt_mm.benchmarking.flops import observe
from eomt_mm.benchmarking.memory import peak_memory
from eomt_mm.benchmarking.models import deformable_attention
from eomt_mm.benchmarking.side_by_side import Spread, alternate, in_fresh_process, paired_ratio
from eomt_mm.benchmarking.sides import Side, Spec

T = TypeVar('T')
R = TypeVar('R')


@dataclass
class Result:
    """What was measured of a side.

    Attributes:
        name: of the config.
        spec: of the side.
        task: of the config.
        input_size: height and width that the network read.
        parameters: their number.
        flops: of a call, see :func:`~eomt_mm.benchmarking.flops.observe`; in training forward, loss and backward; over
            the spec's frames.
        attention: kernels that ran in a call, and how often.
        seconds: of each round's call.
        speedup: over the first side, of the rounds' ratios.
        memory: bytes at most, see :func:`~eomt_mm.benchmarking.memory.peak_memory`; None: not measured.
        accuracy: metrics of the config's own test.
    """

    name: str
    spec: Spec
    task: str
    input_size: tuple[int, int]
    parameters: int
    flops: int
    attention: list[str]
    seconds: list[float] = field(default_factory=list)
    speedup: Spread | None = None
    memory: int | None = None
    accuracy: dict[str, float] = field(default_factory=dict)

    @property
    def time(self) -> Spread:
        """Seconds of a call, over the spec's frames."""
        return Spread.of([seconds / self.spec.frames for seconds in self.seconds])

    @property
    def images_per_second(self) -> float:
        return self.spec.batch / self.time.median


def measure(specs: Sequence[Spec], rounds: int, memory: bool = True) -> list[Result]:
    """Builds all sides, lets them take turns, and measures the memory of each.

    Args:
        specs: sides; all are in memory at the same time.
        rounds: timed calls of each.
        memory: measure it; on the CPU that builds every side once more, in a process of its own.

    Raises:
        ValueError: naming all sides that cannot be built or run, before anything is timed; or the tasks of sides that
            differ, where the stage is more than the network.
    """
    sides = _attempt(build_side, specs, specs)
    _check_tasks(sides)
    results = _attempt(_observe, sides, specs)
    calls = {str(k): side.call for k, side in enumerate(sides)}
    for result, seconds in zip(results, alternate(calls, rounds, warmup=1).values(), strict=True):
        result.seconds = seconds
        result.speedup = paired_ratio(results[0].seconds, seconds)
    calls.clear()
    sides.clear()
    if memory:
        for result in results:
            on_cuda = result.spec.device.startswith('cuda')
            result.memory = peak_memory(result.spec) if on_cuda else in_fresh_process(peak_memory, result.spec)
    return results


def _attempt(step: Callable[[T], R], items: Sequence[T], specs: Sequence[Spec]) -> list[R]:
    """``step`` of each item; where some fail, one error says which and why."""
    done, failures = [], []
    for item, spec in zip(items, specs, strict=True):
        try:
            done.append(step(item))
        except Exception as error:  # whatever the hosts raise: the other sides are still to be tried
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            failures.append(f'{spec.name}: {reason}')
    if failures:
        raise ValueError('\n  '.join(['these sides cannot run:', *failures]))
    return done


def _check_tasks(sides: Sequence[Side]) -> None:
    if len({side.task for side in sides}) > 1 and sides[0].spec.stage != 'model':
        shown = ', '.join(f'{side.spec.name} ({side.task})' for side in sides)
        raise ValueError(f'stage {sides[0].spec.stage}: the tasks of {shown} differ; compare them with --stage model')


def _observe(side: Side) -> Result:
    """Counts in a first call, which is eager; compiles where the spec says so."""
    spec = side.spec
    flops, kernels = observe(side.call)
    side.compile()
    if spec.compile_mode is not None:
        side.call()
    deformable = deformable_attention(side.model, spec.device)
    attention = [f'{count} {name}' for name, count in kernels.items()] + ([deformable] if deformable else [])
    assert side.input_size is not None  # the call has run
    return Result(spec.name, spec, side.task, side.input_size, side.num_parameters(), flops // spec.frames, attention)
