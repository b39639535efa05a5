"""Start distributed runs on machines without an accelerator, where mmengine's launchers still require CUDA."""

import os
from datetime import timedelta

import torch.distributed as dist
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.registry import MODEL_WRAPPERS
from torch.nn.parallel import DistributedDataParallel

# The variables in which each launcher provides what torch reads as RANK, WORLD_SIZE and LOCAL_RANK.
VARIABLES = {
    'pytorch': ('RANK', 'WORLD_SIZE', 'LOCAL_RANK'),
    'slurm': ('SLURM_PROCID', 'SLURM_NTASKS', 'SLURM_LOCALID'),
    'mpi': ('OMPI_COMM_WORLD_RANK', 'OMPI_COMM_WORLD_SIZE', 'OMPI_COMM_WORLD_LOCAL_RANK'),
}
HOW_TO_START = {
    'pytorch': 'start it with tools/dist_train.sh or dist_test.sh, or with torchrun --nproc-per-node NUMBER',
    'slurm': 'start it with tools/slurm_train.sh or slurm_test.sh, or with srun',
    'mpi': 'start it with mpirun -np NUMBER -x MASTER_ADDR=HOST_OF_THE_FIRST',
}
DEFAULT_PORT = '29500'  # torch's and mmengine's


def start_processes(cfg: Config, launcher: str) -> None:
    """Prepare a run that ``launcher`` started, before its runner is built.

    Without an accelerator, this function initialises the process group with gloo, which mmengine's Runner then uses,
    and configures the model wrapper not to look for GPUs. With an accelerator, mmengine does both.

    Args:
        cfg: config to modify: sets ``launcher`` and, without an accelerator, ``env_cfg.dist_cfg.backend`` and
            ``model_wrapper_cfg``.
        launcher: 'none', 'pytorch' (torchrun), 'slurm' or 'mpi'.

    Raises:
        ValueError: the launcher is unknown, its environment is incomplete, torchrun started several processes although
            ``launcher`` is 'none', or torch's process groups do not support the accelerator (Apple GPUs).
    """
    cfg.launcher = launcher
    if launcher == 'none':
        _check_alone()
        return
    if launcher not in VARIABLES:
        raise ValueError(f"launcher='{launcher}': one of none, {', '.join(VARIABLES)}")
    device = get_device()
    if device == 'mps':
        raise ValueError(f'--launcher {launcher}: this machine has an Apple GPU, which supports only one process')
    on_cpu = device == 'cpu'
    _take_environment(launcher, on_cpu)
    if on_cpu:
        cfg.merge_from_dict({'env_cfg.dist_cfg.backend': 'gloo'})
        _wrap_without_devices(cfg)
        _start_gloo(cfg.env_cfg.dist_cfg.get('timeout'))


def _check_alone() -> None:
    """Raise ValueError if torchrun started several processes that are not connected and share one work_dir."""
    size = os.environ.get('WORLD_SIZE', '1')
    if 'TORCHELASTIC_RUN_ID' in os.environ and size != '1':
        raise ValueError(
            f'torchrun started {size} processes, but --launcher is none: each would run on its own and write into the '
            'same folder. Add --launcher pytorch'
        )


def _take_environment(launcher: str, on_cpu: bool) -> None:
    """Copy the launcher's variables to those that torch reads; raise ValueError if some are missing."""
    needed = [*VARIABLES[launcher]]
    if launcher == 'pytorch':
        needed += ['MASTER_ADDR', 'MASTER_PORT']
    elif on_cpu:  # with an accelerator, mmengine queries slurm for it
        needed.append('MASTER_ADDR')
    missing = [name for name in needed if name not in os.environ]
    if missing:
        raise ValueError(
            f'--launcher {launcher}, but the environment lacks {", ".join(missing)}: {HOW_TO_START[launcher]}'
        )
    # The tools set LOCAL_RANK to 0 if it is missing, and mmengine also reads it with mpi.
    for name, source in zip(('RANK', 'WORLD_SIZE', 'LOCAL_RANK'), VARIABLES[launcher], strict=True):
        os.environ[name] = os.environ[source]
    os.environ.setdefault('MASTER_PORT', DEFAULT_PORT)


def _wrap_without_devices(cfg: Config) -> None:
    """Configure mmengine's default wrapper, or the configured one, without ``device_ids``."""
    wrapper = cfg.get('model_wrapper_cfg') or dict(
        broadcast_buffers=False, find_unused_parameters=cfg.get('find_unused_parameters', False)
    )
    wrapper.setdefault('type', 'MMDistributedDataParallel')
    if issubclass(MODEL_WRAPPERS.get(wrapper['type']), DistributedDataParallel):
        wrapper['device_ids'] = None
    cfg.model_wrapper_cfg = wrapper


def _start_gloo(timeout: float | None) -> None:
    """Join the process group; ``timeout`` in seconds, None: torch's default (half an hour)."""
    if not dist.is_initialized():
        dist.init_process_group('gloo', timeout=None if timeout is None else timedelta(seconds=timeout))
