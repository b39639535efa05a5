"""One part of EoMT beside its peers: results are compared, sides take turns, then the memory of each is read."""

import importlib
from argparse import Namespace
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from benchmark.harness import CLEAR_REFS, Call, Spread, alternate, in_fresh_process, paired_ratio, peak_growth, settled
from benchmark.projects import import_adapters

TOLERANCE = 1e-4  # of the range of the values, in float32
Results = Mapping[str, Any]  # of one call of each side


@dataclass(frozen=True)
class Subject:
    """What is compared.

    Attributes:
        help: a line for the command's help.
        problem: makes what all sides get from the options: the same in every process.
        sides: by name, ours first; each makes a call from the problem, or None where it takes no part.
        check: a line on how results agree, '' for nothing to say.

            Raises:
                RuntimeError: they differ, and must not.
        options: of the command line beside the common ones, as arguments of ``add_argument``.
        rounds, threads: defaults.
        exact: options of the problem on which the results are compared, where another one would draw random numbers in
            another order.
        small: options of a problem that loads libraries and starts threads before the memory is read; None: the memory
            is not measured.
    """

    help: str
    problem: Callable[[Namespace], Any]
    sides: Mapping[str, Callable[[Any], Call | None]]
    check: Callable[[Results], str]
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    rounds: int = 10
    threads: int = 2
    exact: Mapping[str, Any] = field(default_factory=dict)
    small: Mapping[str, Any] | None = None


@dataclass
class Measured:
    """What was measured of a side: seconds of each round's call, and bytes at most or None."""

    name: str
    seconds: list[float]
    memory: int | None = None

    @property
    def time(self) -> Spread:
        """Seconds of a call."""
        return Spread.of(self.seconds)

    def time_over(self, other: 'Measured') -> Spread:
        """Ratio of the times, paired by rounds."""
        return paired_ratio(self.seconds, other.seconds)


SUBJECTS: dict[str, Subject] = {}  # by name; see :func:`load_subjects`


def load_subjects() -> dict[str, Subject]:
    """``SUBJECTS``, filled with ours and the projects'."""
    importlib.import_module('benchmark.subjects')
    import_adapters()
    return SUBJECTS


def changed(args: Namespace, options: Mapping[str, Any]) -> Namespace:
    return Namespace(**{**vars(args), **options})


def check(subject: Subject, args: Namespace) -> str:
    """Compare the results of one call of each side; see :attr:`Subject.check`."""
    results = {}
    for name, call in calls_of(subject, subject.problem(changed(args, subject.exact))).items():
        torch.manual_seed(0)
        results[name] = call()
    return subject.check(results)


def calls_of(subject: Subject, problem: Any) -> dict[str, Call]:
    """Calls of the sides that take part."""
    calls = {side: make(problem) for side, make in subject.sides.items()}
    return {side: call for side, call in calls.items() if call is not None}


def measure(name: str, args: Namespace) -> list[Measured]:
    """Time all sides in turns; then the memory of each in a fresh process, unless ``args.no_memory``."""
    subject = SUBJECTS[name]
    found = [
        Measured(side, seconds)
        for side, seconds in alternate(calls_of(subject, subject.problem(args)), args.rounds).items()
    ]
    if subject.small is not None and not args.no_memory and CLEAR_REFS.exists():
        for side in found:
            side.memory = in_fresh_process(peak_memory, name, side.name, args)
    return found


def peak_memory(name: str, side: str, args: Namespace) -> int:
    """Bytes that a side holds at most in two calls, beyond libraries and the problem; run it in a fresh process."""
    torch.set_num_threads(args.threads)
    subject = load_subjects()[name]
    assert subject.small is not None
    alone = replace(subject, sides={side: subject.sides[side]})
    calls_of(alone, subject.problem(changed(args, subject.small)))[side]()
    problem = subject.problem(args)
    before = settled()
    call = calls_of(alone, problem)[side]
    held = settled() - before  # weights

    def twice() -> None:
        for _ in range(2):  # the first one makes an optimiser's states
            call()

    return held + peak_growth(twice)


def check_tensors(results: Results) -> str:
    """Each side's tensors beside the first side's; None for those of a side that are not comparable.

    Raises:
        RuntimeError: one differs by more than ``TOLERANCE``.
    """
    first, *others = [name for name, found in results.items() if found is not None]
    lines = []
    for name in others:
        pairs = zip(results[first], results[name], strict=True)
        worst = max(difference(mine.float(), other.float()) for mine, other in pairs)
        if worst > TOLERANCE:
            raise RuntimeError(f'results of {name} differ from those of {first} by {worst:.1e} of their range')
        lines.append(f'results of {name} differ from those of {first} by {worst:.1e} of their range')
    return '; '.join(lines)


def difference(mine: Tensor, other: Tensor) -> float:
    """Largest difference, over the range of ``other``."""
    return float((mine - other).abs().max() / (other.max() - other.min()))


def check_maps(results: Results) -> str:
    """Share of the pixels of segment maps (H, W) in which each side agrees with the first."""
    (first, mine), *others = [(name, found) for name, found in results.items() if found is not None] or [('', None)]
    shares = [f'{name} {agreement(mine, other):.2%}' for name, other in others]
    return f'pixels whose segments are those of {first}: {", ".join(shares)}' if shares else ''


def agreement(mine: Tensor, other: Tensor) -> float:
    """Share of pixels whose segments are each other's counterparts, whatever their numbers."""
    pairs = torch.stack([mine.flatten().long(), other.flatten().long().clamp(min=0)])
    pairs, counts = pairs.unique(dim=1, return_counts=True)
    taken: set[tuple[int, int]] = set()
    agreeing = 0
    for k in counts.argsort(descending=True).tolist():
        one, two = pairs[:, k].tolist()
        if (0, one) not in taken and (1, two) not in taken:
            taken |= {(0, one), (1, two)}
            agreeing += int(counts[k])
    return agreeing / mine.numel()
