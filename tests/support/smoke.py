"""Try the installed hosts in a few steps, each a process of its own, as for a user. It needs no test tools.

    python tests/support/smoke.py

Imports print no warnings; the demo trains 4 steps, evaluates and draws; the training resumes for 2 more; a checkpoint
that would run a command is refused. `make smoke-onedl` runs it with the maintained forks of the OpenMMLab packages.
"""

import os
import re
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from hostile_files import write_hostile
from paths import ROOT

CONFIG = 'configs/eomt/toy/eomt_tiny_shapes-panoptic-128.py'
# What the maintained forks always print where their maintainer's own package is missing.
PRINTED_BY_FORKS = ('Could not import OneDL. Skipping OneDL datasets.', 'Could not import OneDL')
IMPORTS = """
import eomt_mm
import mmdet.apis, mmdet.datasets, mmdet.evaluation, mmdet.models
import mmseg.apis, mmseg.datasets, mmseg.evaluation, mmseg.models
import eomt_mm.apis
"""


def run(title: str, *command: str | Path, refused: bool = False) -> str:
    """Run a Python command line in the root of the repository; return what it printed.

    Raises:
        SystemExit: it failed; with ``refused``, it did not fail.
    """
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, *map(str, command)], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env=os.environ | {'PYTHONPATH': str(ROOT)},
    )  # fmt: skip
    if bool(done.returncode) != refused:
        sys.exit(f'{done.stdout}\nsmoke: {title}: exit status {done.returncode}')
    print(f'smoke: {title}, {time.monotonic() - start:.0f} s', flush=True)
    return done.stdout


def noise_of(printed: str) -> list[str]:
    """Return the lines that importing the hosts should not have printed."""
    return [line for line in printed.splitlines() if line not in PRINTED_BY_FORKS]


def main() -> None:
    with TemporaryDirectory() as folder:
        demo, marker = Path(folder, 'demo'), Path(folder, 'marker')
        if noise := noise_of(run('imports', '-c', IMPORTS)):
            sys.exit(f'{noise}\nsmoke: imports print this')
        counts = ('--max-iters', '4', '--num-train', '6', '--num-val', '2')
        said = run('demo', 'tools/make_demo.py', *counts, '--work-dir', demo)
        if not re.search(r'\ndemo: PQ \d+\.\d on 2 held-out images, pictures in .*\n$', said):
            sys.exit(f'{said}\nsmoke: the last line of the demo is not as expected')
        common = (CONFIG, '--data-root', demo / 'data', '--work-dir', demo / 'train')
        longer = ('--cfg-options', 'train_cfg.max_iters=6', 'param_scheduler.0.warmup_steps=(0,0)')
        said = run('resume', 'tools/train.py', '--resume', demo / 'train' / 'iter_4.pth', *common, *longer)
        if not (demo / 'train' / 'iter_6.pth').is_file() or re.search(r'Iter\(train\) \[[ 1-4]+/6\]', said):
            sys.exit(f'{said}\nsmoke: the training did not resume after step 4')
        evil = write_hostile(Path(folder, 'evil.pth'), marker)
        for name, option in (('test', ()), ('train', ('--resume',))):
            said = run(
                f'hostile checkpoint, {name}', f'tools/{name}.py', *common[:1], *option, evil, *common[1:], refused=True
            )
            if marker.exists() or 'evil.pth holds more than weights' not in said.splitlines()[-1]:
                sys.exit(f'{said}\nsmoke: {name}.py did not refuse a hostile checkpoint in one line')


if __name__ == '__main__':
    main()
