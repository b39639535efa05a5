"""State of sharded models: whole in the main process or in a file, in parts in all processes or in a folder."""

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

from eomt_mm.checkpoints.torch_files import read_torch
from eomt_mm.engine.sharding.reader import LimitedReader
from eomt_mm.fileio.writing import written_aside

try:
    from torch.distributed.tensor import DTensor, distribute_tensor
except ImportError as too_old:
    raise ImportError(f'sharding needs torch >= 2.6, and {torch.__version__} is installed') from too_old

FOLDER_SUFFIX = '.dcp'
REST = 'runner.pth'  # what a checkpoint folder holds beside tensors: counters, message hub, schedulers, meta

T = TypeVar('T')


def from_main_process(action: Callable[[], T]) -> T:
    """Runs ``action`` in the main process and gives its result to all; a failure raises in all of them.

    Raises:
        OSError, RuntimeError: in the other processes, with the message of the main one.
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
    """The main process's ``full`` in the way that ``target``, of equal shape, is sharded; plain targets get a copy.

    Args:
        full: None in the other processes.
        target: gives mesh, placement, device and dtype.
    """
    device = target.device_mesh.device_type if isinstance(target, DTensor) else get_device()
    if full is None:
        full = torch.empty(target.shape, dtype=target.dtype, device=device)
    full = full.detach().to(device, target.dtype)
    if isinstance(target, DTensor):
        return distribute_tensor(full, target.device_mesh, target.placements).to(target.device)
    full = full.clone()  # broadcast writes into it
    broadcast(full)
    return full.to(target.device)


@torch.no_grad()
def copy_from_main_process(values: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> None:
    """Copies the main process's ``values`` into ``targets``, one tensor at a time; ``values`` are unused elsewhere."""
    for name, target in targets.items():
        target.copy_(shard_like(values[name] if is_main_process() else None, target))


def num_local(model: nn.Module) -> int:
    """Number of elements of a sharded model's parameters that this process holds."""
    return sum(param.to_local().numel() for param in model.parameters() if isinstance(param, DTensor))


def gather(state: Any) -> Any:
    """Whole tensors of a nested state on the main process's host, one at a time; None in their place elsewhere."""

    def whole(x: Tensor) -> Tensor | None:
        if isinstance(x, DTensor):
            on_device: Any = x.to(x.device_mesh.device_type)  # offloaded ones cannot be gathered where they are
            x = on_device.full_tensor()
        return x.cpu() if is_main_process() else None

    return apply_to(state, lambda x: isinstance(x, Tensor), whole)


def shard_optimizer_state(saved: dict[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """An optimiser's whole ``state_dict()`` as that of ``optimizer``, whose parameters are sharded.

    Args:
        saved: in the other processes with tensors on 'meta' in place of the large ones.
        optimizer: with equal parameters in equal order.

    Raises:
        ValueError: it has another number of parameters.
    """
    params = [param for group in optimizer.param_groups for param in group['params']]
    num_saved = sum(len(group['params']) for group in saved['param_groups'])
    if num_saved != len(params):
        raise ValueError(
            f'the checkpoint has optimiser state of {num_saved} parameters, the model trains {len(params)}: resume '
            f'with the same frozen parts, or start anew from its weights (load_from)'
        )

    def like(value: Any, param: Tensor) -> Any:
        if isinstance(value, Tensor) and value.shape == param.shape:
            return shard_like(value if is_main_process() else None, param)
        return value  # counters of steps

    state = {i: {key: like(value, params[i]) for key, value in of.items()} for i, of in saved['state'].items()}
    return dict(saved, state=state)


def outline(checkpoint: Any) -> Any:
    """A checkpoint with shapes ('meta' tensors) in place of values, but for single numbers."""
    return apply_to(checkpoint, lambda x: isinstance(x, Tensor) and x.numel() > 1, lambda x: x.to('meta'))


def is_folder(filename: str | Path) -> bool:
    return str(filename).endswith(FOLDER_SUFFIX)


def read_file(filename: str) -> dict[str, Any]:
    """A checkpoint in the main process, its outline in the others, which need not see the file."""
    whole: dict[str, Any] = {}

    def read() -> dict[str, Any]:
        whole.update(CheckpointLoader.load_checkpoint(filename, map_location='cpu'))
        return outline(whole)

    shapes = from_main_process(read)
    return whole if is_main_process() else shapes


def read_folder(folder: str) -> dict[str, Any]:
    """What a checkpoint folder holds, its weights as shapes.

    Raises:
        FileNotFoundError: there is no such folder, or it is not a whole one.
    """
    if not (Path(folder) / REST).is_file():
        raise FileNotFoundError(f'checkpoint {folder} does not exist, or is no folder that ShardedRunner wrote')
    rest = read_torch(Path(folder) / REST)
    return dict(rest, state_dict=folder_tensors(folder, 'state_dict'))


def write_tensors(tensors: dict[str, Any], folder: Path, no_dist: bool) -> None:
    """Writes nested tensors, each process its parts.

    Raises:
        OSError: in all processes, where one of them could not; torch's own error is no ``Exception``.
    """
    try:
        dcp.save(tensors, checkpoint_id=str(folder), no_dist=no_dist)
    except dcp.CheckpointException as error:
        rank, (cause, _) = next(iter(error.failures.items()))
        raise OSError(f'checkpoint folder {folder}: rank {rank}: {type(cause).__name__}: {cause}') from error


def load_tensors(tensors: dict[str, Any], folder: str | Path, no_dist: bool) -> None:
    """Reads nested tensors in place, each process its parts.

    Raises:
        ValueError: in all processes, where one of them could not; torch's own error is no ``Exception``.
    """
    try:
        dcp.load(tensors, storage_reader=LimitedReader(folder), no_dist=no_dist)
    except dcp.CheckpointException as error:
        rank, (cause, _) = next(iter(error.failures.items()))
        raise ValueError(f'checkpoint folder {folder}: rank {rank}: {type(cause).__name__}: {cause}') from error


def remove_unfinished(parent: Path) -> None:
    """Removes what an interrupted run left of checkpoint folders."""
    for left in parent.glob(f'.*{FOLDER_SUFFIX}.part'):
        shutil.rmtree(left)


def put_in_place(aside: Path, folder: Path) -> None:
    """Renames ``aside`` to ``folder``, in place of an older one."""
    if folder.exists():
        older = folder.with_name(f'.{folder.name}.old{FOLDER_SUFFIX}.part')
        folder.rename(older)
        aside.rename(folder)
        shutil.rmtree(older)
    else:
        aside.rename(folder)


def folder_tensors(folder: str | Path, kind: str) -> dict[str, Tensor]:
    """Names and 'meta' tensors below ``kind`` ('state_dict' or 'optimizer') in a checkpoint folder."""
    metadata = LimitedReader(folder).read_metadata().state_dict_metadata
    return {
        name.removeprefix(f'{kind}.'): torch.empty(entry.size, dtype=entry.properties.dtype, device='meta')
        for name, entry in metadata.items()
        if name.startswith(f'{kind}.') and isinstance(entry, TensorStorageMetadata)
    }


def merge_folder(folder: str | Path, target: str | Path) -> None:
    """Writes the weights of a checkpoint folder as a ``.pth`` for every other tool; needs no process group.

    Args:
        folder: ``.dcp``, written by :class:`ShardedRunner`.
        target: file; replaced where it exists.
    """
    state = {
        name: torch.empty_like(value, device='cpu') for name, value in folder_tensors(folder, 'state_dict').items()
    }
    load_tensors(dict(state_dict=state), folder, no_dist=True)
    rest = read_torch(Path(folder) / REST)
    with written_aside(target) as path:
        torch.save(dict(meta=rest['meta'], state_dict=state, message_hub=rest['message_hub']), path)
