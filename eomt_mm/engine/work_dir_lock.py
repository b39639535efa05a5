"""Lock of a work dir for one training: two runs would silently overwrite each other's checkpoints."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from eomt_mm.fileio.leftovers import HOST, started_at

LOCK = '.train.lock'
HOLDER = '.train.lock.holder'
# Seconds. Data-loader workers of a killed process hold its lock until they end; they look for their parent every 5 s.
WORKERS_END = 20.0


@contextmanager
def work_dir_lock(work_dir: str | Path) -> Iterator[None]:
    """Hold the lock of a work dir while a training runs in it.

    The operating system releases the lock when its process ends, so a killed run does not block later ones.

    Args:
        work_dir: created if it is missing.

    Raises:
        RuntimeError: another process holds the lock; the message names the process, its host and its start time.
    """
    folder = Path(work_dir)
    folder.mkdir(parents=True, exist_ok=True)
    lock, holder = FileLock(folder / LOCK), folder / HOLDER
    try:
        _acquire(lock, holder)
    except Timeout:
        raise RuntimeError(
            f'work_dir {work_dir} is in use by {_read(holder) or "another process"}. Wait until it ends, stop it, or '
            f'give this run its own folder with --work-dir'
        ) from None
    except (NotImplementedError, OSError) as error:
        print(f'work_dir {work_dir} cannot be locked ({error}): do not start a second training in it')
        yield
        return
    try:
        holder.write_text(f'process {os.getpid()} on {HOST} since {time.strftime("%Y-%m-%d %H:%M:%S")}')
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


def _acquire(lock: FileLock, holder: Path) -> None:
    try:
        lock.acquire(timeout=0)
    except Timeout:
        words = _read(holder).split()
        is_gone = len(words) > 3 and words[3] == HOST and started_at(int(words[1])) is None
        if not is_gone:
            raise
        lock.acquire(timeout=WORKERS_END)


def _read(holder: Path) -> str:
    try:
        return holder.read_text()
    except OSError:
        return ''
