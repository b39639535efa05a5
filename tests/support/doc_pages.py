"""Pages of the documentation as tests see them: code blocks, commands, links; and the options that a tool knows."""

import argparse
import re
import runpy
import shlex
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import pytest
from paths import ROOT

DOCS = ROOT / 'docs'
PAGES = sorted(DOCS.glob('*.md'))
SCRIPTS = ('*.py', 'analysis/*.py', 'benchmark/compare.py')
TOOLS = sorted(path for pattern in SCRIPTS for path in (ROOT / 'tools').glob(pattern))

FENCE = re.compile(r'^```(\w*)\n(.*?)^```$', re.MULTILINE | re.DOTALL)
FILE_NAME = re.compile(r'`([\w./]+\.py)`:\n\n\Z')  # the line before a block that is a file
INLINE = re.compile(r'`(python tools/[^`\n]+)`')
VARIABLES = re.compile(r'^(?:[A-Z_]+=\S+ +)*')
COMMENT = re.compile(r'(^|\s)#.*$', re.MULTILINE)


class Block(NamedTuple):
    """A code block; ``file``: the file that it shows, where the line before names one."""

    language: str
    text: str
    file: str | None


def blocks(page: Path) -> list[Block]:
    """Code blocks in their order."""
    text = page.read_text()
    found = []
    for match in FENCE.finditer(text):
        name = FILE_NAME.search(text[: match.start()])
        found.append(Block(match[1], match[2], name[1] if name else None))
    return found


def commands(page: Path) -> list[str]:
    """Command lines: in code blocks of any language but Python, inline, and in the docstrings of tools."""
    if page.suffix == '.py':
        docstring = page.read_text().split('"""')[1]
        return lines_of(''.join(line for line in docstring.splitlines(keepends=True) if line.startswith('    ')))
    shown = [line for block in blocks(page) if block.language != 'python' for line in lines_of(block.text)]
    return shown + INLINE.findall(FENCE.sub('', page.read_text()))


def lines_of(text: str) -> list[str]:
    """Lines of a shell text, continued ones joined, without comments."""
    joined = re.sub(r'\\+\n', ' ', COMMENT.sub('', text))
    return [line.strip() for line in joined.splitlines() if line.strip()]


class Command(NamedTuple):
    """A call of one of our tools: the script or module, and its arguments."""

    target: str
    arguments: list[str]


def call_of_a_tool(line: str) -> Command | None:
    """What a command line runs of ours; None for anything else. Optional parts in brackets count as given."""
    line = VARIABLES.sub('', line).replace('[', '').replace(']', '')
    if not line.startswith(('python ', 'tools/')):
        return None
    words = shlex.split(line)
    match words:
        case ['python', '-m', module, *rest] if module.startswith('eomt_mm.'):
            return Command(module, rest)
        case ['python', script, *rest] if script.endswith('.py'):
            return Command(script, rest)
        case [script, *rest] if script.startswith('tools/dist_'):
            taken = 3 if script.endswith('test.sh') else 2  # the last one is the number of GPUs
            return Command(f'tools/{Path(script).stem[5:]}.py', rest[: taken - 1] + rest[taken:])
        case [script, _, _, *rest] if script.startswith('tools/slurm_'):
            return Command(f'tools/{Path(script).stem[6:]}.py', rest)
    return None


class _Parser(Exception):
    """Carries a tool's parser out of it."""


_PARSERS: dict[str, argparse.ArgumentParser] = {}


def parser_of(target: str) -> argparse.ArgumentParser:
    """The argument parser of a script below the root or of a module; the tool runs no further than to its parsing."""
    if target not in _PARSERS:
        with pytest.MonkeyPatch.context() as patch, pytest.raises(_Parser) as caught:
            patch.setattr(sys, 'argv', [target])
            patch.delitem(sys.modules, target, raising=False)
            patch.syspath_prepend(str((ROOT / target).parent))  # as Python does for a script
            patch.setattr(argparse.ArgumentParser, 'parse_known_args', _raise_parser)
            if target.endswith('.py'):
                runpy.run_path(str(ROOT / target), run_name='__main__')
            else:
                runpy.run_module(target, run_name='__main__')
        _PARSERS[target] = caught.value.args[0]
    return _PARSERS[target]


def _raise_parser(parser: argparse.ArgumentParser, *_: object) -> None:
    raise _Parser(parser)


def accepts(parser: argparse.ArgumentParser, arguments: list[str]) -> str:
    """Parses; returns what the parser has against the arguments, '' for nothing."""
    complaints: list[str] = []

    def error(message: str) -> None:
        complaints.append(message)
        raise SystemExit

    with pytest.MonkeyPatch.context() as patch, suppress(SystemExit):
        patch.setattr(parser, 'error', error)
        parser.parse_args(arguments)
    return '; '.join(complaints)


def named_files(line: str) -> Iterator[str]:
    """Paths in a line that must exist in the repository: tools, configs, requirements; own configs are the reader's."""
    for word in re.split(r'[\s=\'"`]+', line):
        path = re.match(r'^(?:tools|configs|projects|requirements|docs)/[\w./*-]*$', word)
        if path and not word.startswith('configs/own/') and not re.search(r'[A-Z]{4}', word):
            yield word


def links(page: Path) -> list[str]:
    """Targets of Markdown links and pictures, outside of code."""
    text = re.sub(r'`[^`\n]*`', lambda match: re.sub(r'[\[\]()]', ' ', match[0]), FENCE.sub('', page.read_text()))
    return re.findall(r'\]\(([^)\s]+)\)', text)
