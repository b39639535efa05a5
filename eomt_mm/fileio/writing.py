"""Write files and folders completely or not at all: under a temporary name first, then renamed."""

import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from eomt_mm.fileio.leftovers import part_of


def write_whole(path: str | Path, content: bytes, sync: bool = False) -> None:
    """Write a file so that a reader finds the old content or the new one, never a part.

    Args:
        path: of the file; missing folders are made. Links are followed. Anything but a regular file (``/dev/stdout``, a
            pipe) is written to, not replaced.
        content: of the file.
        sync: flush to the disk before the rename, so that either content survives a crash of the machine.

    Raises:
        OSError: naming ``path``. The old file is unchanged, and the temporary file is removed.
    """
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file():
        Path(path).write_bytes(content)
        return
    aside = part_of(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with open(aside, 'xb') as file:
            file.write(content)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        os.replace(aside, target)
    except BaseException as error:
        aside.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename in (None, str(aside)):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def check_free(target: str | Path, folder: bool = False) -> None:
    """Refuse a target that :func:`written_aside` could not put in place; writes nothing.

    Raises:
        FileExistsError: ``target`` is there already and is of the other kind, or a folder that is not empty.
    """
    target = Path(target)
    if target.is_dir() and (not folder or any(target.iterdir())):
        fix = 'name a new folder or empty it' if folder else 'it is a folder; name a file'
        raise FileExistsError(f'{target} exists: {fix}')
    if folder and target.is_file():
        raise FileExistsError(f'{target} exists: it is a file; name a folder')


def check_apart(targets: Iterable[str | Path], inputs: Iterable[str | Path]) -> None:
    """Refuse targets that are inputs, under whatever name or link; writes nothing.

    Raises:
        ValueError: a target is one of the inputs.
    """
    files = {identity: path for path in inputs if (identity := _identity(path)) is not None}
    for target in targets:
        identity = _identity(target)
        if identity in files:
            raise ValueError(f'{target} would replace the input {files[identity]}: write to another place')


def _identity(path: str | Path) -> tuple[int, int] | None:
    """Device and number of a file or folder; None if there is none, as targets in general."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino


@contextmanager
def written_aside(target: str | Path, folder: bool = False) -> Iterator[Path]:
    """A temporary path, of the same name, that takes the place of ``target`` on success and is removed otherwise.

    Args:
        target: file, which is replaced, or folder, which must be new or empty.
        folder: make a folder, not a file.

    Raises:
        FileExistsError: see :func:`check_free`.
    """
    target = Path(target)
    check_free(target, folder)
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = part_of(target)  # a killed process leaves it behind: the next training in this folder removes it
    aside.mkdir()
    try:
        written = aside / target.name
        if folder:
            written.mkdir()
        yield written
        if folder and target.is_dir():
            target.rmdir()
        os.replace(written, target)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
