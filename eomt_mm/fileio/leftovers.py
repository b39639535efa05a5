"""Unfinished files of killed processes: named after their process, and removed once it is gone."""

import os
import platform
import re
import shutil
import time
import uuid
from pathlib import Path

HOST = re.sub(r'[^\w-]', '_', platform.node())[:40]
# A file NAME is written as .NAME.HOST-PROCESS-RANDOM.part beside it. Only the end of a long NAME is used, because file
# systems allow 255 bytes. Earlier versions left HOST out.
NAME_LENGTH = 40
PART = re.compile(r'\..+\.(?:(?P<host>[\w-]+)-)?(?P<pid>\d+)-\w{8}\.part')
# Seconds; no file takes longer to write. For files of other hosts, whose processes cannot be checked.
LONGEST_WRITE = 3600.0
# Of the kernel's times, in seconds.
ACCURACY = 2.0


def part_of(target: Path) -> Path:
    """A new temporary path beside ``target``, to be renamed to it."""
    name = f'.{target.name[-NAME_LENGTH:]}.{HOST}-{os.getpid()}-{uuid.uuid4().hex[:8]}.part'
    return target.with_name(name)


def remove_unfinished(folder: str | Path, depth: int = 0) -> list[Path]:
    """Remove the files and folders in ``folder`` that killed processes left unfinished.

    Files of this host are removed if their process has ended or is the calling one, which must not be writing to
    ``folder``. Files of other hosts are removed if nothing was written to them for an hour.

    Args:
        folder: may be missing.
        depth: levels of subfolders to look into.

    Returns:
        what was removed.
    """
    places = (path for level in range(depth + 1) for path in Path(folder).glob('*/' * level + '.*.part'))
    found = [path for path in places if is_left_over(path)]
    for path in found:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    return found


def is_left_over(path: Path) -> bool:
    """Whether a path has the name of an unfinished file and its process has ended."""
    named = PART.fullmatch(path.name)
    if named is None:
        return False
    try:
        written = path.lstat().st_mtime
    except OSError:  # finished in the meantime
        return False
    if named['host'] not in (None, HOST):
        return time.time() - written > LONGEST_WRITE
    pid = int(named['pid'])
    started = started_at(pid)
    return pid == os.getpid() or started is None or started > written + ACCURACY


def started_at(pid: int) -> float | None:
    """When a process of this host started, in seconds since 1970; None if it has ended.

    Process numbers are reused, so number and start together identify a process. On systems without ``/proc`` the
    start is unknown: 0 for a running process.
    """
    try:
        # The name of the program, in parentheses, may hold spaces.
        state, *fields = Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()
        boot = re.search(r'^btime (\d+)', Path('/proc/stat').read_text(), re.MULTILINE)
    except OSError:
        return 0.0 if not Path('/proc/stat').exists() and _is_running(pid) else None
    if state in 'ZX' or boot is None:  # a zombie: it has ended
        return None
    return int(boot[1]) + int(fields[18]) / os.sysconf('SC_CLK_TCK')


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
