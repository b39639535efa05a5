"""Compare one part of EoMT with its peers: check that results agree, time all sides in turns, measure their memory."""

import argparse
import sys
from argparse import Namespace
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from mmengine.config import DictAction
from torch import Tensor

from benchmark import harness
from benchmark.adapters import import_adapters
from benchmark.forms import FORMS, is_form, left_out
from benchmark.harness import CLEAR_REFS, Call, LeftOut, Measured, alternate, in_fresh_process
from benchmark.report import environment, markdown, megabytes, milliseconds, write_json
from eomt_mm.fileio.writing import check_free
from eomt_mm.options import ToolParser, whole_number

TOLERANCE = 1e-4  # of the range of the values, in float32
ROUGH = tuple(name for name, form in FORMS.items() if form.precision != 'f32')
Maker = Callable[[Any], Call | None]
Results = Mapping[str, Any]  # of one call of each side


@dataclass(frozen=True)
class Subject:
    """A comparison of one part of EoMT with its peers.

    Attributes:
        help: a line for the command's help.
        problem: makes the input of all sides from the options, the same in every process.
        check: returns a line on how the results agree, or ''.

            Raises:
                RuntimeError: results differ that must be equal.
        options: further options of the command line, as arguments of ``add_argument``.
        rounds, threads: defaults.
        exact: options to set when results are compared, if sides would otherwise draw random numbers in different
            orders.
        small: options of a small problem that loads libraries and starts threads before memory is measured; None:
            memory is not measured.
        sides: by name, ours first; see :meth:`side`.
    """

    help: str
    problem: Callable[[Namespace], Any]
    check: Callable[[Results], str]
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    rounds: int = 10
    threads: int = 2
    exact: Mapping[str, Any] = field(default_factory=dict)
    small: Mapping[str, Any] | None = None
    sides: dict[str, Maker] = field(default_factory=dict)

    def side(self, name: str) -> Callable[[Maker], Maker]:
        """Decorator for a side: a function that makes a call from the problem, or None if the side takes no part.

        If it raises :class:`~benchmark.harness.LeftOut`, the side is left out, and the reason is printed once.
        """

        def add(make: Maker) -> Maker:
            self.sides[name] = make
            return make

        return add

    def calls(self, problem: Any) -> dict[str, Call]:
        """Make the calls of the sides that take part."""
        made = {}
        for name, make in self.sides.items():
            try:
                call = make(problem)
            except LeftOut as reason:
                note(f'left out: {name}, {reason}')
                continue
            if call is not None:
                made[name] = call
        return made


@cache
def note(line: str) -> None:
    """Print a line once."""
    print(line, file=sys.stderr)


SUBJECTS: dict[str, Subject] = {}  # by name; see :func:`load_subjects`


def load_subjects() -> dict[str, Subject]:
    """Load all subjects and sides, ours and the projects', and return ``SUBJECTS``."""
    import_adapters()
    return SUBJECTS


# Options that several subjects have ------------------------------------------------------------------------------


def integer(default: int, help: str) -> dict[str, Any]:
    return dict(type=int, default=default, help=help)


LEAF = 'eomt_dinov2-s_24e_coco-panoptic-640'
CONFIG = dict(config=dict(nargs='?', default=LEAF, help='path or name of a config of EoMT'))
OPTIONS = {'--cfg-options': dict(nargs='+', action=DictAction, help='overrides in the config')}
SIZE = {'--size': integer(640, 'side of the input')}
SHAPE = {'--ori-size': dict(type=whole_number(1), nargs=2, default=(480, 640), metavar=('H', 'W'), help='of the image')}


# Agreement -------------------------------------------------------------------------------------------------------


def check(subject: Subject, args: Namespace) -> str:
    """Compare the results of one call of each side; see :attr:`Subject.check`."""
    results = {}
    for name, call in subject.calls(subject.problem(changed(args, subject.exact))).items():
        torch.manual_seed(0)
        results[name] = call()
    return subject.check(results)


def changed(args: Namespace, options: Mapping[str, Any]) -> Namespace:
    return Namespace(**{**vars(args), **options})


def check_tensors(results: Results) -> str:
    """Compare each side's tensors with the first side's; None: a side is not comparable.

    Raises:
        RuntimeError: a side that computes in float32 differs by more than ``TOLERANCE``.
    """
    first, *others = [name for name, found in results.items() if found is not None]
    lines = []
    for name in others:
        pairs = zip(results[first], results[name], strict=True)
        worst = max(difference(mine.float(), other.float()) for mine, other in pairs)
        lines.append(f'results of {name} differ from those of {first} by {worst:.1e} of their range')
        if worst > TOLERANCE and not name.endswith(ROUGH):
            raise RuntimeError(lines[-1])
    return '; '.join(lines)


def difference(mine: Tensor, other: Tensor) -> float:
    """Largest difference, relative to the range of ``other``."""
    return float((mine - other).abs().max() / (other.max() - other.min()))


def check_maps(results: Results) -> str:
    """Compare segment maps (H, W): share of pixels in which each side agrees with the first."""
    (first, mine), *others = [(name, found) for name, found in results.items() if found is not None] or [('', None)]
    shares = [f'{name} {agreement(mine, other):.2%}' for name, other in others]
    return f'pixels whose segments are those of {first}: {", ".join(shares)}' if shares else ''


def agreement(mine: Tensor, other: Tensor) -> float:
    """Share of pixels whose segments correspond to each other, whatever their ids."""
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


# Time and memory -------------------------------------------------------------------------------------------------


def measure(name: str, args: Namespace) -> list[Measured]:
    """Time all sides in turns; then, unless ``args.no_memory``, measure the memory of each in a fresh process."""
    subject = load_subjects()[name]
    seconds = alternate(subject.calls(subject.problem(args)), args.rounds)
    found = [Measured(name=side, seconds=values) for side, values in seconds.items()]
    if subject.small is not None and not args.no_memory and CLEAR_REFS.exists():
        for side in found:
            if is_form(side.name):  # exporting and compiling take more memory than running
                continue
            side.memory = in_fresh_process(peak_memory, name, side.name, args)
    return found


def peak_memory(name: str, side: str, args: Namespace) -> int:
    """Measure a side's peak bytes beyond libraries and the problem; run it in a fresh process."""
    torch.set_num_threads(args.threads)
    subject = load_subjects()[name]
    assert subject.small is not None
    alone = replace(subject, sides={side: subject.sides[side]})
    alone.calls(subject.problem(changed(args, subject.small)))[side]()
    problem = subject.problem(args)
    return harness.peak_memory(lambda: alone.calls(problem)[side])


# Command ---------------------------------------------------------------------------------------------------------


def main(description: str) -> None:
    """Parse the command line of compare.py and run the comparison; errors end with a usage line."""
    parser, args = parse_args(description)
    torch.set_num_threads(args.threads)
    options = {name: value for name, value in vars(args).items() if name not in ('subject', 'base', 'out', 'no_memory')}
    try:
        if args.rounds < 1:
            raise ValueError(f'--rounds {args.rounds}: at least 1')
        if args.out is not None:
            check_free(args.out)
        print(*left_out(args), sep='\n', end='\n' * bool(left_out(args)))
        agreement = check(SUBJECTS[args.subject], args)
        env = environment(options.get('device', 'cpu'))
        stated = ', '.join(f'{name} {value}' for name, value in options.items() if value is not None)
        print(f'{args.subject}: {stated}')
        print(f'{env["device_name"]}, torch {env["torch"]}, {options.get("dtype", "float32")}, sides in turns')
        print(agreement, end='\n' * bool(agreement))
        sides = measure(args.subject, args)
        print(f'\n{table(sides, args.base)}')
        if args.out is not None:
            write_json(args.out, env, sides, subject=args.subject, options=options, agreement=agreement)
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        parser.error(str(error))


def parse_args(description: str) -> tuple[argparse.ArgumentParser, Namespace]:
    parser = ToolParser(description)
    subjects = parser.add_subparsers(dest='subject', metavar='SUBJECT', required=True)
    for name, subject in load_subjects().items():
        one = subjects.add_parser(
            name, help=subject.help, description=subject.help, formatter_class=argparse.ArgumentDefaultsHelpFormatter
        )
        for option, settings in subject.options.items():
            one.add_argument(option, **settings)
        one.add_argument('--base', choices=list(subject.sides), default=next(iter(subject.sides)), help='of the ratios')
        one.add_argument('--rounds', type=int, default=subject.rounds, help='timed calls of each side')
        one.add_argument('--threads', type=whole_number(1), default=subject.threads, help='of torch')
        one.add_argument('--no-memory', action='store_true', help='do not measure the memory')
        one.add_argument('--out', type=Path, metavar='FILE.json', help='all numbers, every round included')
    return parser, parser.parse_args()


def table(sides: list[Measured], base_name: str) -> str:
    """Format a table with sides as rows, and their time and memory relative to the base."""
    base = next(side for side in sides if side.name == base_name)
    header = ['side', 'time (ms)', f'over {base.name}']
    with_memory = any(side.memory is not None for side in sides)
    rows = []
    for side in sides:
        row = [side.name, milliseconds(side.time), side.time_over(base).text(1, 2)]
        if with_memory:
            share = '' if side.memory is None or not base.memory else f'{side.memory / base.memory:.2f}'
            row += [megabytes(side.memory), share]
        rows.append(row)
    return markdown(rows, header + (['peak memory', f'over {base.name}'] if with_memory else []))
