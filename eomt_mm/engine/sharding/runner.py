"""Runner for models too large for one device: torch's ``fully_shard`` (FSDP2) in mmengine's runner.

Each process holds a shard of every parameter, gradient and optimiser state; a block's parameters are gathered while it
runs. mmengine 0.10's own wrapper requires CUDA and uses the older API.

Checkpoints are ordinary ``.pth`` files, which unsharded runs and all tools can read. If the whole state does not fit in
one host's memory, they are ``.dcp`` folders that all processes write and read (``torch.distributed.checkpoint``).
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
from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, OffloadPolicy, fully_shard

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
    """Settings of the config's ``sharding``.

    Attributes:
        param_dtype: dtype of the computation, 'bfloat16' or 'float16'; parameters and optimiser state stay float32.
            Replaces ``--amp``. None: float32.
        reduce_dtype: dtype in which gradients are averaged over processes.
        reshard_after_forward: free a block's gathered parameters after its forward pass and gather them again for its
            backward pass. False is faster, but keeps a whole copy of the weights from forward to backward.
        cpu_offload: keep parameters, gradients and optimiser state in host memory.
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
        """Build from a config dict; raise ValueError for unknown keys and values."""
        unknown = sorted(set(settings) - set(cls.__dataclass_fields__))
        if unknown:
            raise ValueError(f'sharding has unknown keys {unknown}: it takes {sorted(cls.__dataclass_fields__)}')
        return cls(**settings)


def shard(model: nn.Module, settings: Sharding) -> int:
    """Shard ``model`` in place over all processes: each ViT block on its own, the rest together.

    Args:
        model: preferably on the 'meta' device, so that no process ever holds whole parameters.
        settings: see :class:`Sharding`.

    Returns:
        number of blocks.
    """
    dtypes: dict[str, Any] = dict(
        param_dtype=DTYPES.get(settings.param_dtype or ''), reduce_dtype=DTYPES[settings.reduce_dtype]
    )
    common: dict[str, Any] = dict(
        mesh=init_device_mesh(get_device(), (get_world_size(),)),
        reshard_after_forward=settings.reshard_after_forward,
        # without an accelerator, everything is in host memory already
        offload_policy=CPUOffloadPolicy() if settings.cpu_offload and get_device() != 'cpu' else OffloadPolicy(),
    )
    blocks = [block for vit in model.modules() if isinstance(vit, PlainViT) for block in vit.vit.blocks]
    for block in blocks:
        cast_buffers(block, dtypes['param_dtype'])
        # The root module casts the inputs; rotary positions must stay in float32.
        fully_shard(block, mp_policy=MixedPrecisionPolicy(**dtypes, cast_forward_inputs=False), **common)
    fully_shard(model, mp_policy=MixedPrecisionPolicy(**dtypes), **common)
    return len(blocks)


def cast_buffers(block: nn.Module, dtype: torch.dtype | None) -> None:
    """Cast a block's buffers to ``dtype``: timm's Eva combines the zero bias of its keys, a buffer, with parameters."""
    for module in block.modules():
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, buffer.to(dtype or buffer.dtype))


def allocate(model: nn.Module, cpu_offload: bool) -> None:
    """Allocate a sharded 'meta' model on the device, uninitialised; offloaded parameters go to host memory."""
    device = get_device()
    model.to_empty(device='cpu' if cpu_offload else device)
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, buffer.to(device))
        if isinstance(module, BaseDataPreprocessor):
            module.to(device)  # the preprocessor stores the device for its images


@RUNNERS.register_module()
class ShardedRunner(Runner):
    """mmengine's runner with a sharded model: ``runner_type='eomt_mm.ShardedRunner'`` in the config.

    The config's ``sharding`` has the settings (:class:`Sharding`). Only the main process builds, initialises and reads
    whole weights, in host memory; the other processes receive their shards from it. Checkpoints whose name ends in
    '.dcp' (``default_hooks.checkpoint.filename_tmpl='iter_{}.dcp'``) become folders, and their state is never gathered.
    Both kinds can be resumed with any number of processes. Without a launcher, this is mmengine's runner that can also
    read and write such folders.

    Raises:
        ValueError: the settings are unknown, or the config has a model wrapper or an EMA hook, which would copy the
            whole model.
    """

    _whole_model: nn.Module | None = None
    _whole_state: dict[str, Any] | None = None
    _optimizer_state: dict[str, Any] | None = None
    optim_wrapper: Any

    def build_model(self, model: Any) -> nn.Module:
        """Build the model on 'meta'; the main process keeps a whole model until weights are loaded."""
        self._sharding = Sharding.from_cfg(self.cfg.get('sharding') or {})
        if not self.distributed:
            return super().build_model(model)
        if isinstance(model, nn.Module):
            raise TypeError('ShardedRunner needs the config of the model, not a built model')
        if is_main_process():
            self._whole_model = super().build_model(model)
        with torch.device('meta'):
            return super().build_model(model)

    def wrap_model(self, model_wrapper_cfg: dict[str, Any] | None, model: nn.Module) -> nn.Module:
        """Shard the model over the processes."""
        if not self.distributed:
            return super().wrap_model(model_wrapper_cfg, model)
        wrapper = (model_wrapper_cfg or {}).get('type', 'MMDistributedDataParallel')
        if wrapper != 'MMDistributedDataParallel':  # mmengine's default, which sharding replaces
            raise ValueError(
                f"model_wrapper_cfg.type='{wrapper}': ShardedRunner shards the model in place; remove model_wrapper_cfg"
            )
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
            raise ValueError('custom_hooks: EMAHook copies the whole model; ShardedRunner cannot use it, so remove it')

    def _init_model_weights(self) -> None:
        """Initialise the weights in the main process and copy them to all shards."""
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
        """Load weights from a file, which the main process reads, or from a ``.dcp`` folder; see mmengine.

        Raises:
            ValueError: shapes differ, or with ``strict``, names differ.
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
            if isinstance(module, EoMTHead):  # tensors were written in place, without its load_state_dict
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
        """Resume weights, optimiser, schedules and counters from a file or folder; see mmengine."""
        if not self.distributed and not is_folder(filename):
            return super().resume(filename, resume_optimizer, resume_param_scheduler, map_location)
        self.optim_wrapper = self.build_optim_wrapper(self.optim_wrapper)
        self._optimizer_state = {}  # load_checkpoint puts it here
        super().resume(filename, False, resume_param_scheduler, 'cpu')
        saved, self._optimizer_state = self._optimizer_state, None
        if not (resume_optimizer and saved):
            return None
        if is_folder(filename):
            state = get_optimizer_state_dict(self.model, self.optim_wrapper.optimizer)['state']  # allocates the state
            load_tensors(dict(optimizer=state), filename, no_dist=not self.distributed)
            saved['state'] = self.optim_wrapper.state_dict()['state']
        else:
            saved = shard_optimizer_state(saved, self.optim_wrapper.optimizer)
        self.optim_wrapper.load_state_dict(saved)

    def save_checkpoint(
        self, out_dir: str, filename: str, file_client_args: Any = None, save_optimizer: bool = True, **kwargs: Any
    ) -> None:
        """Save a file, or a folder if ``filename`` ends in '.dcp'; every process must call it. See mmengine."""
        if is_folder(filename):
            return self._save_folder(Path(out_dir) / filename, save_optimizer, **kwargs)
        if not self.distributed:
            return super().save_checkpoint(out_dir, filename, file_client_args, save_optimizer, **kwargs)
        whole = dict(state_dict=gather(self.model.state_dict()))
        if save_optimizer:
            whole['optimizer'] = gather(self.optim_wrapper.state_dict())
        self._save_with(whole, out_dir, filename, file_client_args=file_client_args, **kwargs)

    def _save_folder(self, folder: Path, save_optimizer: bool, **kwargs: Any) -> None:
        """Save a folder: all processes write a temporary folder, which replaces ``folder`` if no process fails."""
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
        except Exception:  # raised in all processes, so none is still writing
            from_main_process(partial(remove_unfinished, folder.parent))
            raise

    def _save_with(self, parts: dict[str, Any], out_dir: str, filename: str, **kwargs: Any) -> None:
        """Save with mmengine's method in the main process, using ``parts`` as state of model and optimiser."""
        self._whole_state = parts
        try:
            from_main_process(partial(super().save_checkpoint, out_dir, filename, save_optimizer=False, **kwargs))
        finally:
            self._whole_state = None

    def call_hook(self, fn_name: str, **kwargs: Any) -> None:
        if fn_name == 'before_save_checkpoint' and self._whole_state is not None:
            kwargs['checkpoint'].update(self._whole_state)  # before the hooks, so that they see what will be written
        super().call_hook(fn_name, **kwargs)
