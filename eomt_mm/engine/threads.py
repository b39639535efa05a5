"""Number of threads on a shared machine: the CPUs that this process may use and that other processes leave free.

This module does not import torch, so that the load of other processes can be measured while torch is imported.
"""

import os
import time
from pathlib import Path

STAT = Path('/proc/stat')
CGROUPS = Path('/sys/fs/cgroup')
VARIABLE = 'OMP_NUM_THREADS'


def usable_cpus() -> int:
    """Return the number of CPUs that this process may use, at least 1, from its affinity and its cgroup quotas."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
    return max(1, min([cpus, *(round(quota) for quota in quotas())]))


def quotas(root: Path = CGROUPS, membership: Path = Path('/proc/self/cgroup')) -> list[float]:
    """Return the CPU quotas of the process's cgroups (v1 and v2), in CPUs; empty if there is no limit."""
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
    """Measure the CPU time that other processes use, from construction on."""

    def __init__(self) -> None:
        self.start = self._times()

    def busy_elsewhere(self) -> float:
        """Return the mean number of CPUs that other processes kept busy so far; 0 if the system has no /proc/stat."""
        (since, all_before, own_before), (now, all_now, own_now) = self.start, self._times()
        return max(0.0, (all_now - all_before - own_now + own_before) / max(now - since, 1e-3))

    @staticmethod
    def _times() -> tuple[float, float, float]:
        """Return the clock, the CPU seconds of all processes, and those of this process with its children."""
        own = sum(os.times()[:4])
        try:
            user, nice, system = map(int, STAT.read_text().split(maxsplit=4)[1:4])
        except (OSError, ValueError):
            return time.monotonic(), own, own
        return time.monotonic(), (user + nice + system) / os.sysconf('SC_CLK_TCK'), own


def free_threads(usable: int, total: int, busy: float) -> int:
    """Return the number of threads for a process that may use ``usable`` of ``total`` CPUs, ``busy`` of them in use."""
    return max(1, min(usable, round(total - busy)))


def set_threads(load: Load) -> None:
    """Set torch's number of threads unless OMP_NUM_THREADS is set; print the reason if it is below the usable CPUs."""
    if VARIABLE in os.environ:
        return
    import torch

    usable, busy = usable_cpus(), load.busy_elsewhere()
    threads = min(torch.get_num_threads(), free_threads(usable, os.cpu_count() or usable, busy))
    torch.set_num_threads(threads)
    if threads < usable and busy >= 0.5:
        text = f'threads: {threads} of {usable}, because other processes keep {busy:.1f} CPUs busy'
        print(f'{text}; set {VARIABLE}={usable} to use all', flush=True)
