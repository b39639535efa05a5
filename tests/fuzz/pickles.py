"""Checkpoints that were made to harm: what runs code when it is unpickled, and tensors that are none of a model."""

import functools
import io
import operator
import os
import subprocess
import warnings
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import torch
from damage import MARK
from torch import nn


class Call:
    """Unpickling it calls ``function(*arguments)``."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.reduced = function, arguments

    def __reduce__(self) -> Any:
        return self.reduced

    def __call__(self) -> None:
        """Never: ``pickle`` wants functions to be callable, also those that a call will give."""


def _saved(content: Any, old: bool = False) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=not old)
    return file.getvalue()


def _payloads() -> list[Any]:
    """Each would create the marker."""
    opened = f'open({MARK!r}, "w")'
    return [
        Call(os.system, f'touch {MARK}'),
        Call(os.mkdir, MARK),
        Call(subprocess.Popen, ['touch', MARK]),
        Call(eval, opened),
        Call(exec, opened),
        Call(Path(MARK).touch),  # getattr(Path(...), 'touch')
        Call(functools.partial(open, MARK, 'w')),
        Call(operator.methodcaller('touch'), Path(MARK)),
        Call(Call(getattr, Call(__import__, 'os'), 'mkdir'), MARK),
        Call(torch.storage._load_from_bytes, _saved(Call(os.mkdir, MARK))),
        Call(torch.load, _saved(Call(os.mkdir, MARK)), None, None),
    ]


def _places(weights: dict[str, Any], name: str, evil: Any) -> list[Any]:
    """Checkpoints with a payload in each place that a reader might look at, or not look at."""
    hooked = torch.zeros(2)
    hooked.__dict__['evil'] = evil  # Python attributes of tensors are saved with them
    return [
        evil,
        dict(state_dict=evil),
        dict(state_dict={**weights, name: evil}),
        dict(state_dict={**weights, 'other': [dict(a=(evil,))]}),
        dict(state_dict={**weights, 'other': hooked}),
        dict(state_dict={**weights, 'other': nn.Parameter(hooked)}),
        dict(state_dict=weights, meta=dict(dataset_meta=evil)),
        dict(state_dict=weights, meta=dict(dataset_meta=dict(classes=(evil,)))),
        dict(state_dict=weights, optimizer=dict(state=[evil]), message_hub=dict(a=OrderedDict(b=evil))),
    ]


def hostile(content: bytes, rng: Random) -> bytes:
    """Code somewhere in a checkpoint, in the format that the file has."""
    weights = torch.load(io.BytesIO(content), weights_only=True)['state_dict']
    changed = rng.choice(_places(weights, rng.choice(sorted(weights)), rng.choice(_payloads())))
    return _saved(changed, old=not content.startswith(b'PK'))


def hostile_opcodes(content: bytes, rng: Random) -> bytes:
    """Pickles of old protocols, by themselves: as some programs save weights, and as no program does."""
    command = f'touch {MARK}'.encode()
    return rng.choice(
        [
            b"cposix\nsystem\n(S'" + command + b"'\ntR.",
            b"(S'" + command + b"'\niposix\nsystem\n.",
            b"(cposix\nsystem\nS'" + command + b"'\no.",
            b"\x80\x02}X\n\0\0\0state_dictcposix\nsystem\nX" + len(command).to_bytes(4, 'little')
            + command + b'\x85Rs.',
            b"\x80\x02c__builtin__\neval\nX" + (len(MARK) + 12).to_bytes(4, 'little')
            + f'open({MARK!r},"w")'.encode() + b'\x85R.',
            b'\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c' + bytes([len(command)]) + command + b'\x85R.',
        ]
    )  # fmt: skip


def odd_tensor(content: bytes, rng: Random) -> bytes:
    """A weight of a kind or a shape that no model has."""
    weights = dict(torch.load(io.BytesIO(content), weights_only=True)['state_dict'])
    name = rng.choice(sorted(weights))
    value = weights[name].float()
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # nested tensors are a prototype, quantised ones deprecated
        odd = rng.choice(
            [
                lambda: value.to(torch.float8_e4m3fn), lambda: value.to(torch.complex64), lambda: value.bool(),
                lambda: value.long(), lambda: value.to_sparse(), lambda: value.to('meta'),
                lambda: torch.quantize_per_tensor(value, 0.1, 0, torch.qint8),
                lambda: torch.nested.nested_tensor([value, value]),
                lambda: torch.zeros(1).expand(10**6, 10**6), lambda: torch.zeros(1).expand(2**15, 2**15),
                lambda: value * float('nan'), lambda: value / 0, lambda: value[None], lambda: value.flatten()[:0],
                lambda: torch.as_strided(torch.zeros(1), value.shape, (0,) * value.ndim),
                lambda: 'text', lambda: None, dict, lambda: [value],
            ]
        )()  # fmt: skip
        return _saved(dict(state_dict={**weights, name: odd}), old=not content.startswith(b'PK'))


def odd_structure(content: bytes, rng: Random) -> bytes:
    """Weights in dicts that contain themselves, that are too deep or have odd keys, and odd values as meta."""
    weights = dict(torch.load(io.BytesIO(content), weights_only=True)['state_dict'])
    endless: dict[str, Any] = {}
    endless['state_dict'] = endless
    deep: Any = weights
    for _ in range(rng.choice([50, 300])):
        deep = dict(model=deep)
    odd_classes = (5, [], ('a',), (1, 2), ('a',) * 10**6)
    metas = [5, [1], *(dict(classes=classes) for classes in odd_classes), dict(palette='x')]
    wrapped = [dict(state_dict=weights, meta=meta) for meta in (5, [], 'text', *(dict(dataset_meta=m) for m in metas))]
    others = [endless, deep, [weights], dict(state_dict={5: torch.zeros(1)}), dict(state_dict={}), weights, 5, None]
    return _saved(rng.choice(wrapped + others), old=not content.startswith(b'PK'))


HOSTILE = (hostile, hostile_opcodes, odd_tensor, odd_structure)
