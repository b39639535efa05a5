"""Readers that do what none may do, to see that the harness notices."""

import ctypes
import subprocess
from pathlib import Path
from typing import Any

from damage import BYTES, MARK
from readers import Reader


def crash(folder: Path) -> None:
    ctypes.string_at(0)


def hang(folder: Path) -> None:
    while True:
        pass


def take_memory(folder: Path) -> int:
    return len(bytearray(b'x') * (5 << 28))


def ask_for_memory(folder: Path) -> None:
    try:
        bytearray(1 << 40)
    except MemoryError as error:
        raise ValueError(f'{folder}: {error!r}') from error


def execute(folder: Path) -> None:
    subprocess.run(['touch', MARK], check=True)


def leave_unnamed(folder: Path) -> None:
    raise ValueError('no name')


def fail_elsewhere(folder: Path) -> None:
    raise KeyError(str(folder))


def pass_over(folder: Path) -> bytes:
    return (folder / 'file').read_bytes()


def break_form(folder: Path) -> None:
    raise AssertionError(f'{folder} has three sides')


def _canary(read: Any) -> Reader:
    """Reads well as long as the file is whole."""

    def read_file(folder: Path) -> Any:
        whole = (folder / 'file').read_bytes() == bytes(100)
        return bytes(100) if whole else read(folder)

    def build(folder: Path) -> None:
        (folder / 'file').write_bytes(bytes(100))

    return Reader(read.__name__, build, 'file', read_file, 1, True, BYTES)


# What the harness says of each
VERDICTS = {
    crash: 'died: SIGSEGV',
    hang: 'died: SIGXCPU',
    take_memory: '12.. MB of memory',
    ask_for_memory: 'memory: ValueError',
    execute: 'CODE WAS EXECUTED',
    leave_unnamed: 'file not named: ValueError',
    fail_elsewhere: 'other error: KeyError',
    pass_over: 'another result',
    break_form: 'not well-formed',
}
CANARIES = {read.__name__: _canary(read) for read in VERDICTS}
