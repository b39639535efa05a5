"""The command line of tools/benchmark/compare.py."""

import argparse
from pathlib import Path
from typing import Any

import torch
from mmengine.config import DictAction

from benchmark.report import environment, markdown, megabytes, milliseconds, write_json
from benchmark.subject import SUBJECTS, Measured, check, load_subjects, measure
from eomt_mm.fileio.writing import check_free


def parse_args(description: str) -> tuple[argparse.ArgumentParser, argparse.Namespace]:
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    subjects = parser.add_subparsers(dest='subject', metavar='SUBJECT', required=True)
    for name, subject in load_subjects().items():
        one = subjects.add_parser(
            name, help=subject.help, description=subject.help, formatter_class=argparse.ArgumentDefaultsHelpFormatter
        )
        for option, settings in subject.options.items():
            one.add_argument(option, **({'action': DictAction} if option == '--cfg-options' else {}), **settings)
        one.add_argument('--base', choices=list(subject.sides), default=next(iter(subject.sides)), help='of the ratios')
        one.add_argument('--rounds', type=int, default=subject.rounds, help='timed calls of each side')
        one.add_argument('--threads', type=int, default=subject.threads, help='of torch')
        one.add_argument('--no-memory', action='store_true', help='do not measure the memory')
        one.add_argument('--out', type=Path, metavar='FILE.json', help='all numbers, every round included')
    return parser, parser.parse_args()


def table(sides: list[Measured], base: Measured) -> str:
    """Sides as rows, with what they take over what ``base`` takes."""
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


def main(description: str) -> None:
    """Parse the command line and compare; errors end in a usage line."""
    parser, args = parse_args(description)
    torch.set_num_threads(args.threads)
    subject = SUBJECTS[args.subject]
    options: dict[str, Any] = {
        name: value for name, value in vars(args).items() if name not in ('subject', 'base', 'out', 'no_memory')
    }
    try:
        if args.rounds < 1:
            raise ValueError(f'--rounds {args.rounds}: at least 1')
        if args.out is not None:
            check_free(args.out)
        agreement = check(subject, args)
        env = environment('cpu')
        stated = ', '.join(f'{name} {value}' for name, value in options.items() if value is not None)
        print(f'{args.subject}: {stated}\n{env["device_name"]}, torch {env["torch"]}, float32, sides in turns')
        print(agreement, end='\n' * bool(agreement))
        sides = measure(args.subject, args)
        base = next(side for side in sides if side.name == args.base)
        print(f'\n{table(sides, base)}')
        if args.out is not None:
            write_json(args.out, env, sides, subject=args.subject, options=options, agreement=agreement)
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        parser.error(str(error))
