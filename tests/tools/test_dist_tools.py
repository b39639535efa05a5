"""The shell scripts for several processes: what they start and, in slow tests, runs of two processes to the end."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from paths import ROOT
from process_runs import free_port
from tool_runs import CONFIGS, METRIC, losses, metrics, small

from eomt_mm.synthetic.generate import write_ade20k, write_coco

TOOLS = ROOT / 'tools'
SCRIPTS = {
    'dist_train.sh': ('CONFIG', '2'),
    'dist_test.sh': ('CONFIG', 'CHECKPOINT', '2'),
    'slurm_train.sh': ('PARTITION', 'JOB', 'CONFIG'),
    'slurm_test.sh': ('PARTITION', 'JOB', 'CONFIG', 'CHECKPOINT'),
}
# `make test PYTHON=python3.10` sets one of them for all processes below it.
READ = {name for script in SCRIPTS for name in re.findall(r'\$\{([A-Z_]+)', (TOOLS / script).read_text())}
# Prints its arguments, a line each, and the variables for the processes that it would start.
STUB = '#!/bin/sh\nprintf "%s\\n" "$@"\necho "at=${MASTER_ADDR:-}:${MASTER_PORT:-}"\n'


def run(script: str, *arguments: Any, folder: Path | None = None, **variables: str) -> subprocess.CompletedProcess:
    """Runs it in ``folder``, where mmengine's metrics of several processes meet."""
    kept = {name: value for name, value in os.environ.items() if name not in READ}
    command = ['bash', str(TOOLS / script), *map(str, arguments)]
    return subprocess.run(command, env={**kept, **variables}, cwd=folder, capture_output=True, text=True)


# Starts the tasks as slurm does, on this machine.
SRUN = """#!/bin/bash
while [[ $1 != -u ]]; do [[ $1 == --ntasks ]] && tasks=$2; interpreter=$1; shift; done
for ((task = 0; task < tasks; task++)); do
    SLURM_PROCID=$task SLURM_LOCALID=$task SLURM_NTASKS=$tasks SLURM_NODELIST=here "$interpreter" "$@" &
    started+=($!)
done
for pid in "${started[@]}"; do wait "$pid" || exit 1; done
"""


@pytest.fixture
def stubs(tmp_path: Path) -> dict[str, str]:
    """Environment in which python and srun only print."""
    for name in ('python', 'srun'):
        path = tmp_path / 'bin' / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(STUB)
        path.chmod(0o755)
    return dict(PATH=f'{tmp_path}/bin:{os.environ["PATH"]}')


@pytest.mark.parametrize('script', SCRIPTS)
def test_scripts_are_executable(script: str) -> None:
    assert os.access(TOOLS / script, os.X_OK)


@pytest.mark.parametrize('script', SCRIPTS)
def test_missing_arguments_give_the_usage(script: str, stubs: dict[str, str]) -> None:
    wrong = [SCRIPTS[script][:-1], ()]
    if script.startswith('dist'):
        wrong += [(*SCRIPTS[script][:-1], count) for count in ('--amp', '0', '')]
    for arguments in wrong:
        done = run(script, *arguments, **stubs)
        assert done.returncode == 2
        assert 'usage: ' in done.stderr and SCRIPTS[script][-2] in done.stderr
        assert not done.stdout


@pytest.mark.parametrize('script', SCRIPTS)
def test_arguments_are_passed_on_as_they_are(script: str, stubs: dict[str, str]) -> None:
    extra = ['--work-dir', 'a folder', '--cfg-options', "x=['b c']", 'y=*']
    words = run(script, *SCRIPTS[script], *extra, **stubs).stdout.splitlines()
    launcher = 'pytorch' if script.startswith('dist') else 'slurm'
    first = words.index(str(TOOLS / script.replace('dist_', '').replace('slurm_', '').replace('.sh', '.py')))
    own = [word for word in SCRIPTS[script] if word.startswith('C')]
    assert words[first + 1 : -1] == [*own, '--launcher', launcher, *extra]


@pytest.mark.parametrize('script', ['dist_train.sh', 'dist_test.sh'])
def test_where_processes_meet(script: str, stubs: dict[str, str]) -> None:
    def options(**variables: str) -> str:
        words = run(script, *SCRIPTS[script], **stubs, **variables).stdout.split()
        assert words[:2] == ['-m', 'torch.distributed.run']
        return ' '.join(words[2 : words.index(str(TOOLS / script.replace('dist_', '').replace('.sh', '.py')))])

    assert options() == '--standalone --local-addr localhost --nproc-per-node 2'
    given = '--nnodes 1 --node-rank 0 --master-addr 127.0.0.1 --master-port 1234 --nproc-per-node 2'
    assert options(PORT='1234') == given
    nodes = '--nnodes 3 --node-rank 2 --master-addr first --master-port 29500 --nproc-per-node 2'
    assert options(NNODES='3', NODE_RANK='2', MASTER_ADDR='first') == nodes


@pytest.mark.parametrize('script', ['slurm_train.sh', 'slurm_test.sh'])
def test_what_slurm_is_asked_for(script: str, stubs: dict[str, str]) -> None:
    def asked(**variables: str) -> str:
        return ' '.join(run(script, *SCRIPTS[script], **stubs, **variables).stdout.split())

    usual = asked()
    assert usual.startswith(
        '--partition PARTITION --job-name JOB --gres gpu:4 --ntasks 4 --ntasks-per-node 4 --cpus-per-task 5 '
    )
    assert re.search(r'at=127\.0\.0\.1:2\d{4}$', usual)
    many = asked(GPUS='16', CPUS_PER_TASK='3', SRUN_ARGS='--time 1:00 --qos low', MASTER_PORT='77')
    assert '--gres gpu:8 --ntasks 16 --ntasks-per-node 8 --cpus-per-task 3 ' in many
    assert ' --time 1:00 --qos low python -u ' in many
    assert many.endswith('at=:77')  # on several nodes the first is known once they are given
    assert '--gres' not in asked(GRES='')


# Runs of two processes


@pytest.fixture(scope='module')
def roots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Trees with an odd number of validation images."""
    folder, counts = tmp_path_factory.mktemp('roots'), dict(num_train=6, num_val=5, size=(96, 96), progress=False)
    coco, ade20k = write_coco(folder / 'coco', **counts), write_ade20k(folder / 'ade20k', **counts)
    return dict(panoptic=coco, instance=coco, semantic=ade20k)


def options(task: str = 'panoptic', **more: Any) -> list[str]:
    return ['--cfg-options', *small(task, **more)]


@pytest.mark.slow
@pytest.mark.parametrize('task, with_port', [('panoptic', False), ('instance', False), ('semantic', True)])
def test_train_and_test(task: str, with_port: bool, roots: dict[str, Path], tmp_path: Path) -> None:
    """Two processes train, save and test; one process then gives the same numbers and files."""
    variables = dict(PYTHON=sys.executable, **(dict(PORT=str(free_port())) if with_port else {}))
    common, train = ['--data-root', roots[task], *options(task, max_iters=3)], tmp_path / 'train'
    done = run('dist_train.sh', CONFIGS[task], 2, '--work-dir', train, *common, folder=tmp_path, **variables)
    assert done.returncode == 0, done.stderr[-6000:]
    assert sorted(losses(train)) == [1, 2, 3]
    assert len(list(train.rglob('*.log'))) == 1  # of the first process
    checkpoint = train / 'iter_3.pth'
    assert torch.load(checkpoint, weights_only=True)['meta']['iter'] == 3

    for count in (1, 2):
        out = ['--out', tmp_path / f'out{count}', '--show-dir', tmp_path / f'show{count}']
        out += ['--work-dir', tmp_path / f'test{count}', '--dump', tmp_path / f'dump{count}.pkl']
        done = run('dist_test.sh', CONFIGS[task], checkpoint, count, *out, *common, folder=tmp_path, **variables)
        assert done.returncode == 0, done.stderr[-6000:]
    one, two = (metrics(tmp_path / f'test{count}') for count in (1, 2))
    assert METRIC[task] in one
    assert {name: value for name, value in two.items() if 'time' not in name} == pytest.approx(
        {name: value for name, value in one.items() if 'time' not in name}, rel=0, abs=0, nan_ok=True
    )
    for kind in ('out', 'show'):
        first, second = (
            {path.relative_to(folder): path.read_bytes() for path in folder.rglob('*') if path.is_file()}
            for folder in (tmp_path / f'{kind}1', tmp_path / f'{kind}2')
        )
        assert first == second and first
    assert len(list((tmp_path / 'test2').rglob('*.log'))) == 1


@pytest.mark.slow
def test_slurm_tasks_train_and_test(stubs: dict[str, str], roots: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / 'bin' / 'srun').write_text(SRUN)
    common = ['--data-root', roots['panoptic'], *options(max_iters=2)]
    asked = dict(stubs, GPUS='2', GRES='', PYTHON=sys.executable)
    train = ['PARTITION', 'JOB', CONFIGS['panoptic'], '--work-dir', tmp_path / 'train', *common]
    done = run('slurm_train.sh', *train, folder=tmp_path, **asked)
    assert done.returncode == 0, done.stderr[-6000:]
    assert '2 processes x 3' in done.stdout + done.stderr  # TotalBatchHook: images per step
    assert sorted(losses(tmp_path / 'train')) == [1, 2]
    test = [*train[:3], tmp_path / 'train' / 'iter_2.pth', '--work-dir', tmp_path / 'test', *common]
    done = run('slurm_test.sh', *test, folder=tmp_path, **asked)
    assert done.returncode == 0, done.stderr[-6000:]
    assert METRIC['panoptic'] in metrics(tmp_path / 'test')


def workers_of(torchrun: int) -> dict[int, int]:
    """Process ids of its workers, by rank."""
    found = {}
    for child in Path(f'/proc/{torchrun}/task/{torchrun}/children').read_text().split():
        environment = Path(f'/proc/{child}/environ').read_bytes().decode(errors='replace').split('\0')
        ranks = [word.removeprefix('RANK=') for word in environment if word.startswith('RANK=')]
        found.update({int(rank): int(child) for rank in ranks})
    return found


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen]]:
    """Processes that end with the test."""
    processes: list[subprocess.Popen] = []
    yield processes
    for process in processes:
        if process.poll() is None:
            process.kill()
        process.wait()


@pytest.mark.slow
@pytest.mark.skipif(not Path('/proc/self/task').exists(), reason='finds the workers in /proc')
@pytest.mark.parametrize('rank', [0, 1])
def test_killed_process_ends_all_and_the_run_resumes(
    rank: int, roots: dict[str, Path], tmp_path: Path, started: list[subprocess.Popen]
) -> None:
    length = dict(default_hooks__checkpoint__interval=5, train_cfg__val_interval=10000)
    arguments = [CONFIGS['panoptic'], 2, '--data-root', roots['panoptic'], '--work-dir', tmp_path / 'work']
    command = ['bash', TOOLS / 'dist_train.sh', *arguments, *options(max_iters=10000, **length)]
    with open(tmp_path / 'log', 'w') as log:
        environment = {**os.environ, 'PYTHON': sys.executable}
        process = subprocess.Popen([*map(str, command)], env=environment, cwd=tmp_path, stdout=log, stderr=log)
    started.append(process)
    marker, end = tmp_path / 'work' / 'last_checkpoint', time.monotonic() + 120
    while not marker.exists():
        assert process.poll() is None and time.monotonic() < end, (tmp_path / 'log').read_text()
        time.sleep(0.05)
    workers = workers_of(process.pid)
    assert sorted(workers) == [0, 1]
    os.kill(workers[rank], signal.SIGKILL)
    assert process.wait(timeout=60) > 0
    assert not [pid for pid in workers.values() if Path(f'/proc/{pid}').exists()]

    saved = int(re.search(r'iter_(\d+)', marker.read_text()).group(1))
    again = options(max_iters=saved + 5, **length)
    done = run('dist_train.sh', *arguments, '--resume', *again, folder=tmp_path, PYTHON=sys.executable)
    assert done.returncode == 0, done.stderr[-6000:]
    assert (tmp_path / 'work' / f'iter_{saved + 5}.pth').exists()
    assert max(losses(tmp_path / 'work')) >= saved + 5
