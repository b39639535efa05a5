"""Measure or estimate the peak memory of a training step, per config, batch and option, as a Markdown table.

With a CUDA device, the step runs on it with random weights, and the allocator's peak is read. Without a CUDA device, or
with --estimate, the step runs on tensors that have a size but no content, which takes seconds and almost no memory for
any model. All their live bytes are counted: parameters, gradients, AdamW's states, tensors kept for the backward pass,
and outputs of operations. The estimate does not include workspaces inside an operation, memory that the allocator
cannot reuse, and the device's context (about half a gigabyte).

A step is forward, matching, losses, backward and AdamW, on normalised images with 12 targets each, with masked
attention in all joint blocks. --amp is counted as bfloat16, whose tensors are as large as float16's.

Examples:
    python tools/analysis/memory.py configs/eomt/coco/eomt_dinov2-*_coco-panoptic-640.py --batch 4 1
    python tools/analysis/memory.py CONFIG --parts      # what is kept for the backward pass, part by part
"""

import argparse
import itertools
import weakref
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from eomt_mm.options import ToolParser, add_cfg_options, read_options, whole_number


def make_parser() -> argparse.ArgumentParser:
    parser = ToolParser(__doc__)
    parser.add_argument('configs', nargs='+', help='config files')
    parser.add_argument('--batch', nargs='+', type=whole_number(1), default=[4], help='images per process and step')
    parser.add_argument('--targets', type=whole_number(0), default=12, help='targets per image')
    parser.add_argument('--estimate', action='store_true', help='do not measure, even with a CUDA device')
    parser.add_argument('--parts', action='store_true', help='what is kept for the backward pass, part by part')
    add_cfg_options(parser)
    return parser


if __name__ == '__main__':
    args = make_parser().parse_args()  # before torch is imported, so that -h and errors are fast

from eomt_mm.apis.config import load_config  # isort: skip
import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.registry import MODELS
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from eomt_mm.core.geometry import Size, as_size
from eomt_mm.core.head import EoMTHead
from eomt_mm.core.matcher import HungarianMatcher

GIB = 2**30
PARTS = ('blocks', 'joint blocks', 'scale blocks', 'final norm', 'losses', 'embeddings, queries, mask product')


@dataclass(frozen=True)
class Option:
    """One column of the table.

    Attributes:
        amp: mixed precision.
        blocks, predictions: activation checkpointing (``with_cp``) of the backbone's blocks, or of the predictions.
        frozen: freeze the embeddings and the blocks before the joint ones.
        one_by_one: process the batch image by image, with gradient accumulation.
    """

    amp: bool = False
    blocks: bool = False
    predictions: bool = False
    frozen: bool = False
    one_by_one: bool = False


OPTIONS = {
    'float32': Option(),
    'with_cp': Option(blocks=True, predictions=True),
    '--amp': Option(amp=True),
    '--amp, head.with_cp': Option(amp=True, predictions=True),
    '--amp, backbone.with_cp': Option(amp=True, blocks=True),
    '--amp, with_cp': Option(amp=True, blocks=True, predictions=True),
    '--amp, frozen': Option(amp=True, frozen=True),
    '--amp, frozen, with_cp': Option(amp=True, frozen=True, blocks=True, predictions=True),
    '--amp, accumulation': Option(amp=True, one_by_one=True),
    '--amp, accumulation, with_cp': Option(amp=True, one_by_one=True, blocks=True, predictions=True),
}


class LiveBytes(TorchDispatchMode):
    """Count the bytes of live storages that operations allocate.

    Attributes:
        now: bytes alive.
        peak: most bytes alive so far.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self._add(leaf.untyped_storage())
        return out

    def _add(self, storage: torch.UntypedStorage) -> None:
        key = id(storage)
        if key not in self._known:
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            self._known.add(key)
            weakref.finalize(storage, self._free, key, storage.nbytes())

    def _free(self, key: int, size: int) -> None:
        self._known.remove(key)
        self.now -= size


class FirstQueries(HungarianMatcher):
    """Compute the cost matrices, for their memory, then match the first queries without solving the assignment."""

    def assign(self, costs: Tensor) -> tuple[Tensor, Tensor]:
        return (torch.arange(min(costs.shape)),) * 2


def build_model(cfg: Config, option: Option, device: str) -> Any:
    """Build the config's model with the option's settings, in training mode, with random weights on ``device``."""
    backbone = dict(cfg.model.backbone, with_cp=option.blocks)
    with torch.device(device):
        model = MODELS.build(dict(cfg.model, backbone=backbone))
        if option.frozen:
            backbone['frozen_stages'] = model.backbone.depth - head_of(model).num_blocks
            model = MODELS.build(dict(cfg.model, backbone=backbone))
    head_of(model).with_cp = option.predictions
    return model.train()


def head_of(model: nn.Module) -> Any:
    return next(module for module in model.modules() if isinstance(module, EoMTHead))


def give_memory(model: nn.Module) -> None:
    """Move a model from the meta device to the CPU, and set only the keep probabilities of its attention masks."""
    head = head_of(model.to_empty(device='cpu'))
    head.set_attn_mask_probs([1.0] * head.num_blocks)


def make_batch(model: Any, size: Size, batch: int, num_targets: int) -> tuple[Tensor, list[dict[str, Tensor]]]:
    """Make normalised images (B, 3, *size) and targets on torch's default device."""
    labels = torch.arange(num_targets) % head_of(model).num_classes
    masks = torch.zeros(num_targets, *size, dtype=torch.bool)
    return torch.randn(batch, 3, *size), [dict(labels=labels, masks=masks.clone()) for _ in range(batch)]


def forward_loss(model: Any, images: Tensor, targets: list[dict[str, Tensor]], amp: bool) -> Tensor:
    with torch.autocast(images.device.type, torch.bfloat16, enabled=amp):
        losses = head_of(model).criterion(*model.extract_feat(images), targets)
        return torch.stack(list(losses.values())).sum()


def training_step(
    model: Any, optimizer: torch.optim.Optimizer, images: Tensor, targets: list[dict[str, Tensor]], option: Option
) -> None:
    num_images = 1 if option.one_by_one else len(images)
    for start in range(0, len(images), num_images):
        part = slice(start, start + num_images)
        forward_loss(model, images[part], targets[part], option.amp).backward()
    optimizer.step()
    optimizer.zero_grad()


def make_optimizer(model: nn.Module) -> torch.optim.Optimizer:
    """Build AdamW with its states, as after the first step."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.grad = torch.zeros_like(parameter)
    optimizer = torch.optim.AdamW(trained, lr=1e-6, foreach=True)  # torch's choice on a GPU
    optimizer.step()
    optimizer.zero_grad()
    return optimizer


@contextmanager
def norms_in_float32() -> Iterator[None]:
    """Run LayerNorm in float32, as autocast does on a GPU; on the CPU, autocast runs it in half precision."""
    layer_norm = F.layer_norm
    with mock.patch.object(F, 'layer_norm', lambda x, *args: layer_norm(x.float(), *args)):
        yield


@contextmanager
def sizes_only() -> Iterator[None]:
    """Create tensors without content on a fake CPU device, where attention stores no weight matrix either."""
    with FakeTensorMode(allow_non_fake_inputs=True), norms_in_float32():
        yield


def estimated_peak(cfg: Config, option: Option, size: Size, batch: int, num_targets: int) -> int:
    """Estimate the peak bytes of a step; see the module's docstring."""
    model = build_model(cfg, option, 'meta')
    head_of(model).criterion.matcher = FirstQueries()
    with sizes_only(), LiveBytes() as live:
        give_memory(model)
        optimizer = make_optimizer(model)
        images, targets = make_batch(model, size, batch, num_targets)
        training_step(model, optimizer, images, targets, option)
        return live.peak


def measured_peak(cfg: Config, option: Option, size: Size, batch: int, num_targets: int) -> int | None:
    """Measure the CUDA allocator's peak bytes in a step; None if the device runs out of memory."""
    try:
        model = build_model(cfg, option, 'cuda')
        with torch.device('cuda'):
            optimizer = make_optimizer(model)
            images, targets = make_batch(model, size, batch, num_targets)
            torch.cuda.reset_peak_memory_stats()
            training_step(model, optimizer, images, targets, option)
        return torch.cuda.max_memory_allocated()
    except torch.cuda.OutOfMemoryError:
        return None


def kept_by_part(cfg: Config, option: Option, size: Size, batch: int, num_targets: int) -> Counter[str]:
    """Count the bytes that each part of the model keeps for the backward pass, without parameters."""
    model = build_model(cfg, option, 'meta')
    head = head_of(model)
    head.criterion.matcher = FirstQueries()
    parts = [PARTS[-1]]  # the last one runs
    for i, block in enumerate(model.backbone.vit.blocks):
        note_part(block, 'blocks' if i < model.backbone.depth - head.num_blocks else 'joint blocks', parts)
    note_part(model.backbone.vit.norm, 'final norm', parts)
    note_part(head.upscale, 'scale blocks', parts)
    note_part(head.criterion, 'losses', parts)
    bytes_of: Counter[str] = Counter()
    with sizes_only():
        give_memory(model)
        seen = {id(storage): storage for storage in (p.untyped_storage() for p in model.parameters())}

        def count(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if id(storage) not in seen:
                seen[id(storage)] = storage  # keep it alive, so that its id is not reused
                bytes_of[parts[-1]] += storage.nbytes()
            return tensor

        images, targets = make_batch(model, size, batch, num_targets)
        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            forward_loss(model, images, targets, option.amp)
    return bytes_of


def note_part(module: nn.Module, name: str, parts: list[str]) -> None:
    """Append ``name`` to ``parts`` while ``module`` runs."""
    module.register_forward_pre_hook(lambda *_: parts.append(name))
    module.register_forward_hook(lambda *_: parts.remove(name))


def print_table(title: str, columns: list[str], rows: Iterator[list[str]]) -> None:
    """Print a Markdown table, each row as soon as it is computed."""
    for line in ([title, *columns], ['---', *('---:' for _ in columns)]):
        print(f'| {" | ".join(line)} |')
    for row in rows:
        print(f'| {" | ".join(row)} |', flush=True)


def peak_rows(cfgs: dict[str, Config], batches: list[int], num_targets: int, estimate: bool) -> Iterator[list[str]]:
    """Yield a row per config and batch, with a column per option, in GiB."""
    peak_of = estimated_peak if estimate else measured_peak
    for (name, cfg), batch in itertools.product(cfgs.items(), batches):
        row = [f'{name}, batch {batch}']
        for option in OPTIONS.values():
            if option.one_by_one and batch == 1:
                row.append('')  # nothing to divide
                continue
            peak = peak_of(cfg, option, as_size(cfg.img_size), batch, num_targets)
            row.append('out of memory' if peak is None else f'{peak / GIB:.1f}')
        yield row


def parts_rows(cfgs: dict[str, Config], batches: list[int], num_targets: int) -> Iterator[list[str]]:
    """Yield a row per config, batch and precision, with a column per part of the model, in GiB."""
    for (name, cfg), batch, precision in itertools.product(cfgs.items(), batches, ('float32', '--amp')):
        kept = kept_by_part(cfg, OPTIONS[precision], as_size(cfg.img_size), batch, num_targets)
        yield [f'{name}, batch {batch}, {precision}', *(f'{kept[part] / GIB:.2f}' for part in PARTS)]


def main(args: argparse.Namespace) -> None:
    cfgs = {Path(path).stem: load_config(path, read_options(args.cfg_options)) for path in args.configs}
    for name, cfg in cfgs.items():
        if 'img_size' not in cfg:
            make_parser().error(f'{name} has no img_size, the size of its images: give configs of image models')
    if args.parts:
        rows = parts_rows(cfgs, args.batch, args.targets)
        print_table('kept for the backward pass in GiB, counted', list(PARTS), rows)
    else:
        estimate = args.estimate or not torch.cuda.is_available()
        how = 'estimated' if estimate else f'measured on {torch.cuda.get_device_name()}'
        rows = peak_rows(cfgs, args.batch, args.targets, estimate)
        print_table(f'peak memory of a training step in GiB, {how}', list(OPTIONS), rows)


if __name__ == '__main__':
    main(args)
