"""Conversion of model and optimiser state: whole (main process, file) to sharded (all processes, folder) and back."""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed.checkpoint as dcp
from mmengine.device import get_device
from mmengine.dist import broadcast, broadcast_object_list, is_main_process
from mmengine.runner import CheckpointLoader
from mmengine.utils import apply_to
from torch import Tensor, nn
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.tensor import DTensor, distribute_tensor

from eomt_mm.checkpoints.torch_files import read_torch
from eomt_mm.engine.sharding.reader import LimitedReader
from eomt_mm.fileio.writing import written_aside

FOLDER_SUFFIX = '.dcp'
REST = 'runner.pth'  # file in a checkpoint folder for everything but tensors: counters, message hub, schedulers, meta

T = TypeVar('T')


def from_main_process(action: Callable[[], T]) -> T:
    """Run ``action`` in the main process and broadcast its result; a failure raises in all processes.

    Raises:
        OSError, RuntimeError: in the other processes, with the main process's message.
    """
    answer: list[Any] = [None, None]
    failure: Exception | None = None
    if is_main_process():
        try:
            answer[0] = action()
        except Exception as error:
            failure = error
            kind = OSError if isinstance(error, OSError) else RuntimeError
            answer[1] = kind(f'main process: {type(error).__name__}: {error}')
    broadcast_object_list(answer)
    if answer[1] is not None:
        raise failure or answer[1]
    return answer[0]


def shard_like(full: Tensor | None, target: Tensor) -> Tensor:
    """Distribute the main process's tensor ``full`` over all processes with the sharding of ``target``.

    Args:
        full: whole tensor in the main process, None in the others.
        target: tensor of equal shape; determines mesh, placement, device and dtype. If it is not sharded, each process
            gets a copy of ``full``.
    """
    device = target.device_mesh.device_type if isinstance(target, DTensor) else get_device()
    if full is None:
        full = torch.empty(target.shape, dtype=target.dtype, device=device)
    full = full.detach().to(device, target.dtype)
    if isinstance(target, DTensor):
        return distribute_tensor(full, target.device_mesh, target.placements).to(target.device)
    full = full.clone()  # broadcast overwrites it
    broadcast(full)
    return full.to(target.device)


@torch.no_grad()
def copy_from_main_process(values: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> None:
    """Copy the main process's ``values`` into ``targets``, one tensor at a time; those of others are ignored."""
    for name, target in targets.items():
        target.copy_(shard_like(values[name] if is_main_process() else None, target))


def num_local(model: nn.Module) -> int:
    """Return the number of parameter elements of a sharded model that this process holds."""
    return sum(param.to_local().numel() for param in model.parameters() if isinstance(param, DTensor))


def gather(state: Any) -> Any:
    """Gather the tensors of a nested state in the main process's host memory, one at a time; others get None."""

    def whole(x: Tensor) -> Tensor | None:
        if isinstance(x, DTensor):
            on_device: Any = x.to(x.device_mesh.device_type)  # offloaded shards cannot be gathered in host memory
            x = on_device.full_tensor()
        return x.cpu() if is_main_process() else None

    return apply_to(state, lambda x: isinstance(x, Tensor), whole)


def shard_optimizer_state(saved: dict[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Shard an optimiser's whole ``state_dict()`` for ``optimizer``, whose parameters are sharded.

    Args:
        saved: whole state in the main process; in the other processes, large tensors are replaced by 'meta' tensors.
        optimizer: optimiser with the same parameters in the same order.

    Raises:
        ValueError: the number of parameters differs.
    """
    params = [param for group in optimizer.param_groups for param in group['params']]
    num_saved = sum(len(group['params']) for group in saved['param_groups'])
    if num_saved != len(params):
        raise ValueError(
            f'the checkpoint has optimiser state of {num_saved} parameters, the model trains {len(params)}: resume '
            f'with the same frozen parts, or start a new training from its weights (load_from)'
        )

    def like(value: Any, param: Tensor) -> Any:
        if isinstance(value, Tensor) and value.shape == param.shape:
            return shard_like(value if is_main_process() else None, param)
        return value  # step counters

    state = {i: {key: like(value, params[i]) for key, value in of.items()} for i, of in saved['state'].items()}
    return dict(saved, state=state)


def outline(checkpoint: Any) -> Any:
    """Replace the tensors of a checkpoint by 'meta' tensors of the same shape, except for those with one element."""
    return apply_to(checkpoint, lambda x: isinstance(x, Tensor) and x.numel() > 1, lambda x: x.to('meta'))


def is_folder(filename: str | Path) -> bool:
    return str(filename).endswith(FOLDER_SUFFIX)


def read_file(filename: str) -> dict[str, Any]:
    """Read a checkpoint in the main process; the others get its :func:`outline` and need no access to the file."""
    whole: dict[str, Any] = {}

    def read() -> dict[str, Any]:
        whole.update(CheckpointLoader.load_checkpoint(filename, map_location='cpu'))
        return outline(whole)

    shapes = from_main_process(read)
    return whole if is_main_process() else shapes


def read_folder(folder: str) -> dict[str, Any]:
    """Read a checkpoint folder, with 'meta' tensors in place of the weights.

    Raises:
        FileNotFoundError: the folder does not exist or is incomplete.
    """
    if not (Path(folder) / REST).is_file():
        raise FileNotFoundError(f'checkpoint {folder} does not exist, or is no folder that ShardedRunner finished')
    rest = read_torch(Path(folder) / REST)
    return dict(rest, state_dict=folder_tensors(folder, 'state_dict'))


def write_tensors(tensors: dict[str, Any], folder: Path, no_dist: bool) -> None:
    """Write nested tensors to a folder; each process writes its shards.

    Raises:
        OSError: in all processes, if one of them fails; torch's own error is no subclass of ``Exception``.
    """
    try:
        dcp.save(tensors, checkpoint_id=str(folder), no_dist=no_dist)
    except dcp.CheckpointException as error:
        rank, (cause, _) = next(iter(error.failures.items()))
        raise OSError(f'checkpoint folder {folder}: rank {rank}: {type(cause).__name__}: {cause}') from error


def load_tensors(tensors: dict[str, Any], folder: str | Path, no_dist: bool) -> None:
    """Read nested tensors from a folder in place; each process reads its shards.

    Raises:
        ValueError: in all processes, if one of them fails; torch's own error is no subclass of ``Exception``.
    """
    try:
        dcp.load(tensors, storage_reader=LimitedReader(folder), no_dist=no_dist)
    except dcp.CheckpointException as error:
        rank, (cause, _) = next(iter(error.failures.items()))
        raise ValueError(f'checkpoint folder {folder}: rank {rank}: {type(cause).__name__}: {cause}') from error


def remove_unfinished(parent: Path) -> None:
    """Remove checkpoint folders that an interrupted run left unfinished."""
    for left in parent.glob(f'.*{FOLDER_SUFFIX}.part'):
        shutil.rmtree(left)


def put_in_place(aside: Path, folder: Path) -> None:
    """Rename ``aside`` to ``folder``, replacing an older one."""
    if folder.exists():
        older = folder.with_name(f'.{folder.name}.old{FOLDER_SUFFIX}.part')
        folder.rename(older)
        aside.rename(folder)
        shutil.rmtree(older)
    else:
        aside.rename(folder)


def folder_tensors(folder: str | Path, kind: str) -> dict[str, Tensor]:
    """Map names to 'meta' tensors for all tensors below ``kind`` ('state_dict' or 'optimizer') in a folder."""
    metadata = LimitedReader(folder).read_metadata().state_dict_metadata
    return {
        name.removeprefix(f'{kind}.'): torch.empty(entry.size, dtype=entry.properties.dtype, device='meta')
        for name, entry in metadata.items()
        if name.startswith(f'{kind}.') and isinstance(entry, TensorStorageMetadata)
    }


def merge_folder(folder: str | Path, target: str | Path) -> None:
    """Convert the weights of a checkpoint folder to a ``.pth`` file for all other tools; needs no process group.

    Args:
        folder: ``.dcp`` folder written by :class:`ShardedRunner`.
        target: file to write; replaced if it exists.
    """
    state = {
        name: torch.empty_like(value, device='cpu') for name, value in folder_tensors(folder, 'state_dict').items()
    }
    load_tensors(dict(state_dict=state), folder, no_dist=True)
    rest = read_torch(Path(folder) / REST)
    with written_aside(target) as path:
        torch.save(dict(meta=rest['meta'], state_dict=state, message_hub=rest['message_hub']), path)
