"""Rules that map another program's weight names to ours and back, without changing a bit of the weights."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Literal

import torch
from torch import Tensor

from eomt_mm.checkpoints.files import State

# {i}: index of a block, {k}: index of a scale block, {p}: weight or bias, {rest}: anything
PLACEHOLDERS = {'i': r'\d+', 'k': r'\d+', 'p': 'weight|bias', 'rest': '.+'}


@dataclass(frozen=True)
class Rule:
    """Name and layout of one of our weights in another program.

    Attributes:
        theirs: one name or, for ``stack``, several names of tensors that are concatenated in ours.
        ours: our name. All names are templates with ``PLACEHOLDERS``.
        kind: ``copy``; ``stack``: concatenate along dimension 0; or ``unbatch``: ours has an additional leading
            dimension of size 1.
    """

    theirs: tuple[str, ...]
    ours: str
    kind: Literal['copy', 'stack', 'unbatch'] = 'copy'

    def to_ours(self, tensors: list[Tensor]) -> Tensor:
        if self.kind == 'stack':
            return torch.cat(tensors)
        return tensors[0][None] if self.kind == 'unbatch' else tensors[0]

    def to_theirs(self, tensor: Tensor) -> list[Tensor]:
        if self.kind == 'stack':
            return [part.clone() for part in tensor.chunk(len(self.theirs))]  # safetensors refuses shared memory
        return [tensor[0] if self.kind == 'unbatch' else tensor]


def copy(theirs: str, ours: str) -> Rule:
    return Rule((theirs,), ours)


def stack(theirs: Iterable[str], ours: str) -> Rule:
    return Rule(tuple(theirs), ours, 'stack')


@dataclass
class Mapped:
    """Result of mapping weights to our names.

    Attributes:
        weights: ``backbone.vit.<name in timm>`` and ``head.<name in EoMTHead>``.
        sources: maps our names to those in the file.
        table: maps (their template, our template) to the number of our weights from this rule.
        ignored: names in the file that we do not need.
        unexpected: names in the file that match no rule.
        notes: notes for the user on computed changes.
    """

    weights: State = field(default_factory=dict)
    sources: dict[str, tuple[str, ...]] = field(default_factory=dict)
    table: Counter[tuple[str, str]] = field(default_factory=Counter)
    ignored: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def map_to_ours(state: Mapping[str, Tensor], rules: Iterable[Rule], ignored: Iterable[str], path: str) -> Mapped:
    """Apply rules from their names to ours.

    Args:
        state: the file's weights.
        rules: rules of the file's format.
        ignored: templates of names that are left out on purpose.
        path: the file, for messages.

    Raises:
        ValueError: some weights of a group that belongs together are missing.
    """
    mapped = Mapped()
    skipped = [_pattern(template) for template in ignored]
    left = dict.fromkeys(state)
    for name in state:
        if any(pattern.fullmatch(name) for pattern in skipped):
            mapped.ignored.append(name)
            del left[name]
    for rule in rules:
        pattern = _pattern(rule.theirs[0])
        for name in list(left):
            match = pattern.fullmatch(name)
            if not match:
                continue
            names = tuple(_fill(template, match) for template in rule.theirs)
            lacking = [name for name in names if name not in left]
            if lacking:
                raise ValueError(f'{path} has {name} but lacks {", ".join(lacking)}: the file is incomplete')
            ours = _fill(rule.ours, match)
            mapped.weights[ours] = rule.to_ours([state[name] for name in names])
            mapped.sources[ours] = names
            mapped.table[together(rule.theirs), rule.ours] += 1
            for used in names:
                del left[used]
    mapped.unexpected = list(left)
    return mapped


def map_to_theirs(weights: Mapping[str, Tensor], rules: Iterable[Rule]) -> State:
    """Apply rules from our names to theirs.

    Raises:
        ValueError: some of our weights match no rule; the message lists them.
    """
    state: State = {}
    left = dict(weights)
    for rule in rules:
        pattern = _pattern(rule.ours)
        for name in list(left):
            match = pattern.fullmatch(name)
            if match:
                names = [_fill(template, match) for template in rule.theirs]
                state.update(zip(names, rule.to_theirs(left.pop(name)), strict=True))
    if left:
        raise ValueError(f'the format has no place for {", ".join(left)}')
    return state


def together(names: Sequence[str]) -> str:
    """Merge several names into one pattern: ``attention.[q|k|v]_proj.{p}``."""
    if len(names) == 1:
        return names[0]
    start = _common(names)
    end = _common([name[start:][::-1] for name in names])
    middle = '|'.join(name[start : len(name) - end] for name in names)
    return f'{names[0][:start]}[{middle}]{names[0][len(names[0]) - end :]}'


def _common(names: Sequence[str]) -> int:
    """Return the length of the prefix that all names share."""
    return sum(1 for _ in takewhile(lambda letters: len(set(letters)) == 1, zip(*names, strict=False)))


def _pattern(template: str) -> re.Pattern[str]:
    parts = re.split(r'\{(\w+)\}', template)
    text = [f'(?P<{part}>{PLACEHOLDERS[part]})' if n % 2 else re.escape(part) for n, part in enumerate(parts)]
    return re.compile(''.join(text))


def _fill(template: str, match: re.Match[str]) -> str:
    return template.format(**match.groupdict())
