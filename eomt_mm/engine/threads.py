"""Number of threads where a machine is shared: CPUs that this process may use, and that others leave free.

Imports no torch: what the others use is measured while the rest is imported.
"""

import os
import time
from pathlib import Path

STAT = Path('/proc/stat')
CGROUPS = Path('/sys/fs/cgroup')
VARIABLE = 'OMP_NUM_THREADS'


def usable_cpus() -> int:
    """CPUs that this process may use, at least 1: its affinity and the quotas of its control groups."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
    return max(1, min([cpus, *(round(quota) for quota in quotas())]))


def quotas(root: Path = CGROUPS, membership: Path = Path('/proc/self/cgroup')) -> list[float]:
    """CPUs that the process's control groups grant, of both versions; none where nothing is limited."""
    try:
        entries = [line.split(':', 2) for line in membership.read_text().splitlines()]
    except OSError:
        return []
    found = []
    for _, controllers, path in entries:
        if controllers and 'cpu' not in controllers.split(','):
            continue
        base = root / 'cpu' if controllers else root
        group = base / path.lstrip('/')
        for folder in [group, *group.parents]:
            if not folder.is_relative_to(base):
                break
            try:
                if controllers:
                    quota, period = ((folder / f'cpu.cfs_{name}_us').read_text() for name in ('quota', 'period'))
                else:
                    quota, period = (folder / 'cpu.max').read_text().split()
                if quota.strip() not in ('max', '-1'):
                    found.append(int(quota) / int(period))
            except OSError:  # the root has no limit; a container may not show its own path
                continue
    return found


class Load:
    """CPU time that other processes use from now on."""

    def __init__(self) -> None:
        self.start = self._times()

    def busy_elsewhere(self) -> float:
        """Mean number of CPUs that others kept busy since the start; 0 where the system does not say."""
        (since, all_before, own_before), (now, all_now, own_now) = self.start, self._times()
        return max(0.0, (all_now - all_before - own_now + own_before) / max(now - since, 1e-3))

    @staticmethod
    def _times() -> tuple[float, float, float]:
        """Clock, CPU seconds of all processes, and of this one with its children."""
        own = sum(os.times()[:4])
        try:
            user, nice, system = map(int, STAT.read_text().split(maxsplit=4)[1:4])
        except (OSError, ValueError):
            return time.monotonic(), own, own
        return time.monotonic(), (user + nice + system) / os.sysconf('SC_CLK_TCK'), own


def free_threads(usable: int, total: int, busy: float) -> int:
    """Threads for a process that may use ``usable`` of ``total`` CPUs, of which others keep ``busy`` busy."""
    return max(1, min(usable, round(total - busy)))


def set_threads(load: Load) -> None:
    """Set torch's number of threads, unless OMP_NUM_THREADS does; print why they are fewer than the usable CPUs."""
    if VARIABLE in os.environ:
        return
    import torch

    usable, busy = usable_cpus(), load.busy_elsewhere()
    threads = min(torch.get_num_threads(), free_threads(usable, os.cpu_count() or usable, busy))
    torch.set_num_threads(threads)
    if threads < usable and busy >= 0.5:
        text = f'threads: {threads} of {usable}, because other processes keep {busy:.1f} CPUs busy'
        print(f'{text}; {VARIABLE}={usable} takes all', flush=True)
