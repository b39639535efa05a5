"""Training of models too large for one device: torch's ``fully_shard`` (FSDP2) in mmengine's runner.

Each process holds a part of every parameter, gradient and optimiser state; a block's parameters come together while it
runs. mmengine 0.10's own wrapper demands CUDA and the older API.

Checkpoints are ordinary ``.pth`` files, which unsharded runs and every tool read, or, where the whole state does not
fit one host, folders ``.dcp`` that all processes write and read (``torch.distributed.checkpoint``).
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from mmengine.device import get_device
from mmengine.dist import get_rank, get_world_size, is_main_process
from mmengine.hooks import EMAHook
from mmengine.model import BaseDataPreprocessor
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict
from torch.distributed.device_mesh import init_device_mesh

from eomt_mm.core.backbone import PlainViT
from eomt_mm.core.head import EoMTHead
from eomt_mm.engine.sharding.state import (
    REST,
    copy_from_main_process,
    from_main_process,
    gather,
    is_folder,
    load_tensors,
    num_local,
    put_in_place,
    read_file,
    read_folder,
    remove_unfinished,
    shard_optimizer_state,
    write_tensors,
)
from eomt_mm.registry import RUNNERS

DTYPES = {'float32': torch.float32, 'bfloat16': torch.bfloat16, 'float16': torch.float16}


@dataclass(frozen=True)
class Sharding:
    """The config's ``sharding``.

    Attributes:
        param_dtype: 'bfloat16' or 'float16' to compute in it, parameters and optimiser state stay float32; takes the
            place of ``--amp``. None: float32.
        reduce_dtype: in which gradients are averaged over processes.
        reshard_after_forward: give a block's parameters back after its forward and gather them again for its backward;
            False is faster and keeps a whole copy of the weights from forward to backward.
        cpu_offload: keep parameters, gradients and optimiser state in the memory of the host.
    """

    param_dtype: str | None = None
    reduce_dtype: str = 'float32'
    reshard_after_forward: bool = True
    cpu_offload: bool = False

    def __post_init__(self) -> None:
        for name in ('param_dtype', 'reduce_dtype'):
            value = getattr(self, name)
            if value not in DTYPES and not (name == 'param_dtype' and value is None):
                raise ValueError(f"sharding.{name}='{value}': one of {sorted(DTYPES)}")

    @classmethod
    def from_cfg(cls, settings: Mapping[str, Any]) -> 'Sharding':
        """Raises ValueError for unknown keys and values."""
        unknown = sorted(set(settings) - set(cls.__dataclass_fields__))
        if unknown:
            raise ValueError(f'sharding has unknown keys {unknown}: it takes {sorted(cls.__dataclass_fields__)}')
        return cls(**settings)


def shard(model: nn.Module, settings: Sharding) -> int:
    """Shards ``model`` in place over all processes, each ViT block by itself and the rest together.

    Args:
        model: best on the 'meta' device: parameters are then never whole anywhere.
        settings: see :class:`Sharding`.

    Returns:
        number of blocks.

    Raises:
        ImportError: torch is older than 2.6, which made ``fully_shard`` public.
    """
    try:
        from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, OffloadPolicy, fully_shard
    except ImportError as error:
        raise ImportError(f'sharding needs torch >= 2.6, and {torch.__version__} is installed') from error

    dtypes: dict[str, Any] = dict(
        param_dtype=DTYPES.get(settings.param_dtype or ''), reduce_dtype=DTYPES[settings.reduce_dtype]
    )
    common: dict[str, Any] = dict(
        mesh=init_device_mesh(get_device(), (get_world_size(),)),
        reshard_after_forward=settings.reshard_after_forward,
        # without an accelerator everything is on the host already
        offload_policy=CPUOffloadPolicy() if settings.cpu_offload and get_device() != 'cpu' else OffloadPolicy(),
    )
    blocks = [block for vit in model.modules() if isinstance(vit, PlainViT) for block in vit.vit.blocks]
    for block in blocks:
        cast_buffers(block, dtypes['param_dtype'])
        # Inputs come in the right dtype from the root; rotary positions must stay in float32.
        fully_shard(block, mp_policy=MixedPrecisionPolicy(**dtypes, cast_forward_inputs=False), **common)
    fully_shard(model, mp_policy=MixedPrecisionPolicy(**dtypes), **common)
    return len(blocks)


def cast_buffers(block: nn.Module, dtype: torch.dtype | None) -> None:
    """Buffers in the dtype of the parameters that they meet: timm's Eva keeps the zero bias of its keys as one."""
    for module in block.modules():
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, buffer.to(dtype or buffer.dtype))


def allocate(model: nn.Module, cpu_offload: bool) -> None:
    """Brings a sharded model from 'meta' to the device, without values; offloaded parameters go to the host."""
    device = get_device()
    model.to_empty(device='cpu' if cpu_offload else device)
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, buffer.to(device))
        if isinstance(module, BaseDataPreprocessor):
            module.to(device)  # it remembers where to put the images


@RUNNERS.register_module()
class ShardedRunner(Runner):
    """mmengine's runner with a sharded model: ``runner_type='eomt_mm.ShardedRunner'`` in the config.

    The config's ``sharding`` has the settings (:class:`Sharding`). The main process alone builds, initialises and
    reads whole weights, on its host; the others get their parts from it. Checkpoints whose name ends in '.dcp'
    (``default_hooks.checkpoint.filename_tmpl='iter_{}.dcp'``) become folders that are never gathered. Both kinds resume
    at any number of processes; without a launcher this is mmengine's runner that also reads and writes folders.

    Raises:
        ValueError: for unknown settings, a model wrapper, or an EMA hook, which would copy the whole model.
    """

    _whole_model: nn.Module | None = None
    _whole_state: dict[str, Any] | None = None
    _optimizer_state: dict[str, Any] | None = None
    optim_wrapper: Any

    def build_model(self, model: Any) -> nn.Module:
        """The model on 'meta'; the main process keeps a whole one until weights are loaded."""
        self._sharding = Sharding.from_cfg(self.cfg.get('sharding') or {})
        if not self.distributed:
            return super().build_model(model)
        if isinstance(model, nn.Module):
            raise TypeError('ShardedRunner builds the model from its config, so that no process holds all of it')
        if is_main_process():
            self._whole_model = super().build_model(model)
        with torch.device('meta'):
            return super().build_model(model)

    def wrap_model(self, model_wrapper_cfg: dict[str, Any] | None, model: nn.Module) -> nn.Module:
        """Shards the model over the processes."""
        if not self.distributed:
            return super().wrap_model(model_wrapper_cfg, model)
        wrapper = (model_wrapper_cfg or {}).get('type', 'MMDistributedDataParallel')
        if wrapper != 'MMDistributedDataParallel':  # which sharding takes the place of
            raise ValueError(f"model_wrapper_cfg.type='{wrapper}': ShardedRunner wraps nothing, it shards in place")
        num_blocks = shard(model, self._sharding)
        allocate(model, self._sharding.cpu_offload)
        self.model = model
        self._copy_whole_model()
        self.logger.info(
            f'model sharded over {self.world_size} processes in {num_blocks} blocks and the rest; rank {get_rank()} '
            f'holds {num_local(model)} of {sum(param.numel() for param in model.parameters())} parameters'
        )
        return model

    def register_hooks(self, default_hooks: Any = None, custom_hooks: Any = None) -> None:
        super().register_hooks(default_hooks, custom_hooks)
        if self.distributed and any(isinstance(hook, EMAHook) for hook in self.hooks):
            raise ValueError('custom_hooks: EMAHook copies the whole model, which a ShardedRunner does not have')

    def _init_model_weights(self) -> None:
        """Pretrained weights, read by the main process."""
        if not self.distributed:
            return super()._init_model_weights()
        whole: Any = self._whole_model
        from_main_process(lambda: whole.init_weights())
        self._copy_whole_model()

    def _copy_whole_model(self) -> None:
        def tensors(model: nn.Module) -> dict[str, Tensor]:
            return {**dict(model.named_parameters()), **dict(model.named_buffers())}

        copy_from_main_process({} if self._whole_model is None else tensors(self._whole_model), tensors(self.model))

    def load_or_resume(self) -> None:
        self._whole_model = None
        super().load_or_resume()

    def load_checkpoint(
        self,
        filename: str,
        map_location: Any = 'cpu',
        strict: bool = False,
        revise_keys: Iterable[tuple[str, str]] = ((r'^module\.', ''),),
    ) -> dict[str, Any]:
        """Loads weights from a file, which the main process reads, or a folder ``.dcp``; see mmengine.

        Raises:
            ValueError: shapes differ, or with ``strict`` names.
        """
        revise_keys = list(revise_keys)
        if not self.distributed and not is_folder(filename):
            return super().load_checkpoint(filename, map_location, strict, revise_keys)
        checkpoint = read_folder(filename) if is_folder(filename) else read_file(filename)
        self.call_hook('after_load_checkpoint', checkpoint=checkpoint)
        if self._optimizer_state is not None:
            self._optimizer_state = checkpoint.pop('optimizer', {})
        saved = checkpoint.get('state_dict', checkpoint)
        for pattern, replacement in revise_keys:
            saved = {re.sub(pattern, replacement, name): value for name, value in saved.items()}
        own = self.model.state_dict()
        self._compare(saved, own, filename, strict)
        targets = {name: value for name, value in own.items() if name in saved}
        if is_folder(filename):
            load_tensors(dict(state_dict=targets), filename, no_dist=not self.distributed)
        else:
            copy_from_main_process(saved, targets)
        for module in self.model.modules():
            if isinstance(module, EoMTHead):  # tensors were written in place, past its load_state_dict
                module.note_attn_mask_probs(module.attn_mask_probs.tolist())
        self._has_loaded = True
        self.logger.info(f'weights loaded from {filename}')
        return checkpoint

    def _compare(self, saved: Mapping[str, Tensor], own: Mapping[str, Tensor], filename: str, strict: bool) -> None:
        missing, unknown = sorted(set(own) - set(saved)), sorted(set(saved) - set(own))
        differing = [name for name in own if name in saved and own[name].shape != saved[name].shape]
        text = f'checkpoint {filename}: missing {missing}, unknown {unknown}, of another shape {differing}'
        if differing or (strict and (missing or unknown)):
            raise ValueError(text)
        if missing or unknown:
            self.logger.warning(text)

    def resume(
        self,
        filename: str,
        resume_optimizer: bool = True,
        resume_param_scheduler: bool = True,
        map_location: Any = 'default',
    ) -> None:
        """Resumes weights, optimiser, schedules and counters from a file or folder, see mmengine."""
        if not self.distributed and not is_folder(filename):
            return super().resume(filename, resume_optimizer, resume_param_scheduler, map_location)
        self.optim_wrapper = self.build_optim_wrapper(self.optim_wrapper)
        self._optimizer_state = {}  # load_checkpoint puts it here
        super().resume(filename, False, resume_param_scheduler, 'cpu')
        saved, self._optimizer_state = self._optimizer_state, None
        if not (resume_optimizer and saved):
            return None
        if is_folder(filename):
            state = get_optimizer_state_dict(self.model, self.optim_wrapper.optimizer)['state']  # allocates it
            load_tensors(dict(optimizer=state), filename, no_dist=not self.distributed)
            saved['state'] = self.optim_wrapper.state_dict()['state']
        else:
            saved = shard_optimizer_state(saved, self.optim_wrapper.optimizer)
        self.optim_wrapper.load_state_dict(saved)

    def save_checkpoint(
        self, out_dir: str, filename: str, file_client_args: Any = None, save_optimizer: bool = True, **kwargs: Any
    ) -> None:
        """Saves a file, or a folder where ``filename`` ends in '.dcp'; every process must call it, see mmengine."""
        if is_folder(filename):
            return self._save_folder(Path(out_dir) / filename, save_optimizer, **kwargs)
        if not self.distributed:
            return super().save_checkpoint(out_dir, filename, file_client_args, save_optimizer, **kwargs)
        whole = dict(state_dict=gather(self.model.state_dict()))
        if save_optimizer:
            whole['optimizer'] = gather(self.optim_wrapper.state_dict())
        self._save_with(whole, out_dir, filename, file_client_args=file_client_args, **kwargs)

    def _save_folder(self, folder: Path, save_optimizer: bool, **kwargs: Any) -> None:
        """All processes write beside ``folder``; what they wrote then takes its place, or is removed."""
        aside = folder.with_name(f'.{folder.name}.part')
        from_main_process(partial(remove_unfinished, folder.parent))
        tensors: dict[str, Any] = dict(state_dict=self.model.state_dict())
        rest: dict[str, Any] = dict(state_dict={})
        if save_optimizer:
            tensors['optimizer'] = get_optimizer_state_dict(self.model, self.optim_wrapper.optimizer)['state']
            rest['optimizer'] = dict(self.optim_wrapper.state_dict(), state={})
        try:
            write_tensors(tensors, aside, no_dist=not self.distributed)
            self._save_with(rest, str(aside), REST, **kwargs)
            from_main_process(partial(put_in_place, aside, folder))
        except Exception:  # in all processes, none of which writes any longer
            from_main_process(partial(remove_unfinished, folder.parent))
            raise

    def _save_with(self, parts: dict[str, Any], out_dir: str, filename: str, **kwargs: Any) -> None:
        """mmengine's way of saving, with ``parts`` for what it would take from model and optimiser."""
        self._whole_state = parts
        try:
            from_main_process(partial(super().save_checkpoint, out_dir, filename, save_optimizer=False, **kwargs))
        finally:
            self._whole_state = None

    def call_hook(self, fn_name: str, **kwargs: Any) -> None:
        if fn_name == 'before_save_checkpoint' and self._whole_state is not None:
            kwargs['checkpoint'].update(self._whole_state)  # hooks then see what will be written
        super().call_hook(fn_name, **kwargs)
