"""Subjects of the network: its forward pass, a training step, and from an image file to the panoptic map."""

import tempfile
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import run_exported
import torch
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from mmengine.registry import DefaultScope
from torch import Tensor, nn

from benchmark import forms
from benchmark.configs import class_counts, is_ours, is_video, side_config, task_of, test_pipeline, without_targets
from benchmark.forms import Form, PlainViT, add_forms, exported, in_torch
from benchmark.harness import Call
from benchmark.inputs import random_targets, write_image
from benchmark.kept import keep_queries
from benchmark.models import build_model
from benchmark.subject import CONFIG, OPTIONS, SHAPE, SIZE, SUBJECTS, Subject, check_maps, check_tensors, integer
from eomt_mm.apis.exporting import metadata_of, network_of
from eomt_mm.core.backbone import IMAGENET_MEAN, IMAGENET_STD
from eomt_mm.export import export_program
from eomt_mm.export.formats import FORMATS

Logits = tuple[Tensor, Tensor]  # of classes (B, Q, K + 1) and masks (B, Q, H/4, W/4)


def problem_of(args: Namespace) -> Namespace:
    """Make a config, uint8 RGB images ``pixels`` (B, 3, S, S), the same normalised, and the targets of each."""
    cfg = eomt_config(args.config, (args.size, args.size), args.cfg_options)
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (args.batch, 3, args.size, args.size), generator=generator, dtype=torch.uint8)
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    targets = random_targets(args.batch, vars(args).get('targets', 0), args.size, sum(class_counts(cfg)))
    images, key = (pixels - mean) / std, key_of(args)
    return Namespace(cfg=cfg, pixels=pixels, images=images, targets=targets, forms=forms.chosen(args), key=key)


def key_of(args: Namespace) -> str:
    """Text that states the options of a problem."""
    return repr(sorted(vars(args).items()))


def eomt_config(name: str, *changes: Any) -> Any:
    """Load the config of a side; see :func:`~benchmark.configs.side_config`.

    Raises:
        ValueError: it is none of EoMT's on images.
    """
    cfg = side_config(name, *changes)
    if not is_ours(cfg) or is_video(cfg):
        raise ValueError(f'config {name} is none of EoMT on images; tools/benchmark.py compares any configs')
    return cfg


def network(cfg: Config) -> Any:
    """Build the config's model in eval mode; its random weights are the same in every process."""
    torch.manual_seed(0)
    return build_model(cfg, None, 'cpu')


FORWARD = SUBJECTS['forward'] = Subject(
    help='network, masks off, beside the ViT inside it and the model of transformers with equal weights',
    problem=problem_of,
    check=check_tensors,
    options=CONFIG | SIZE | {'--batch': integer(1, 'images')} | forms.OPTIONS | OPTIONS,
    small=dict(size=64),
)


@FORWARD.side('eomt_mm')
def forward(problem: Namespace) -> Call:
    return forward_of(network(problem.cfg).extract_feat, problem)


def forward_of(extract_feat: Callable[[Tensor], Any], problem: Namespace) -> Call:
    """Make a call of our network, or of a form of it."""

    @torch.no_grad()
    def call() -> Logits:
        class_logits, mask_logits = extract_feat(problem.images)
        return class_logits[-1], mask_logits[-1]

    return call


def forward_in(form: Form, problem: Namespace) -> Call:
    """Make a call of a form of our network."""
    model = network(problem.cfg)
    if not form.format:
        return forward_of(in_torch(form, model.extract_feat), problem)
    run = exported(form, network_of(model, problem.images.shape[2:]), problem.pixels)
    return lambda: run(problem.pixels)


add_forms(FORWARD.side, 'eomt_mm', forward_in)


@FORWARD.side('timm')
def plain_vit(problem: Namespace) -> Call:
    """Only the ViT of our model; there are no predictions to compare."""
    vit = network(problem.cfg).backbone.vit
    return no_result(lambda: vit.forward_features(problem.images))


def plain_vit_in(form: Form, problem: Namespace) -> Call:
    """Make a call of a form of the ViT."""
    model = network(problem.cfg)
    if not form.format:
        features = in_torch(form, model.backbone.vit.forward_features)
        return no_result(lambda: features(problem.images))
    run = exported(form, PlainViT(network_of(model, problem.images.shape[2:])), problem.pixels)
    return no_result(lambda: run(problem.pixels))


def no_result(run: Callable[[], Any]) -> Call:
    """Make a call without gradients and without a result to compare."""

    @torch.no_grad()
    def call() -> None:
        run()

    return call


add_forms(FORWARD.side, 'timm', plain_vit_in)


TRAINING = SUBJECTS['training'] = Subject(
    help='training step, all masks on: forward, matching, losses, backward, AdamW; beside the model and loss of '
    'transformers with equal weights (each draws its own points)',
    problem=problem_of,
    check=check_tensors,
    options=CONFIG | SIZE | {'--batch': integer(2, 'images'), '--targets': integer(15, 'per image')} | OPTIONS,
    rounds=3,
    small=dict(size=64),
)


def training_step(model: nn.Module, loss_and_logits: Callable[[], tuple[Tensor, Logits]]) -> Call:
    """Make a call of loss, backward pass and AdamW's step; result: the logits."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)

    def call() -> Logits:
        loss, (class_logits, mask_logits) = loss_and_logits()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return class_logits.detach(), mask_logits.detach()

    return call


@TRAINING.side('eomt_mm')
def training(problem: Namespace) -> Call:
    model = network(problem.cfg).train()
    head = model.decode_head if task_of(problem.cfg) == 'semantic' else model.panoptic_head
    head.set_attn_mask_probs([1.0] * head.num_blocks)

    def loss_and_logits() -> tuple[Tensor, Logits]:
        class_logits, mask_logits = model.extract_feat(problem.images)
        losses = head.criterion(class_logits, mask_logits, problem.targets)
        return sum(losses.values(), torch.zeros(())), (class_logits[-1], mask_logits[-1])

    return training_step(model, loss_and_logits)


def file_problem(args: Namespace) -> Namespace:
    """Make a panoptic config, an image file, and the folder that holds it."""
    cfg = eomt_config(args.config, None, args.cfg_options)
    if task_of(cfg) != 'panoptic':
        raise ValueError(f'config {args.config}: its task is {task_of(cfg)}, not panoptic')
    folder = tempfile.TemporaryDirectory()  # lives as long as the problem
    path = args.image or write_image(Path(folder.name) / 'image.jpg', tuple(args.ori_size))
    return Namespace(cfg=cfg, path=path, kept=args.kept, folder=folder, forms=forms.chosen(args), key=key_of(args))


FILE_TO_PANOPTIC = SUBJECTS['file_to_panoptic'] = Subject(
    help='image file to panoptic map, beside processor, model and post-processing of transformers with equal weights',
    problem=file_problem,
    check=check_maps,
    options=CONFIG
    | SHAPE
    | {
        '--image': dict(type=Path, help='default: one is drawn'),
        '--kept': integer(25, 'queries that are certain of a class; the others see no object'),
    }
    | forms.OPTIONS
    | OPTIONS,
)


@FILE_TO_PANOPTIC.side('eomt_mm')
def file_to_panoptic(problem: Namespace) -> Call:
    """The config's own test pipeline and ``test_step``."""
    return file_to_panoptic_of(certain_network(problem), problem)


def certain_network(problem: Namespace) -> Any:
    """Build the model with queries that are certain of a class."""
    model = network(problem.cfg)
    keep_queries(model.panoptic_head, problem.kept)
    return model


def file_to_panoptic_of(model: Any, problem: Namespace) -> Call:
    """Make a call of the test pipeline and ``test_step``."""
    cfg = problem.cfg
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        pipeline = Compose(without_targets(test_pipeline(cfg)))

    @torch.no_grad()
    def call() -> Tensor:
        item = pipeline(dict(img_path=str(problem.path), img_id=0))
        (sample,) = model.test_step(pseudo_collate([item]))
        return sample.pred_panoptic_seg.sem_seg[0]

    return call


def file_to_panoptic_in(form: Form, problem: Namespace) -> Call:
    """Make a call of a form: PyTorch, or the file's runner."""
    model = certain_network(problem)
    if not form.format:
        model.extract_feat = in_torch(form, model.extract_feat)
        return file_to_panoptic_of(model, problem)
    made = network_of(model)
    quantised, wanted = 'int8' if form.precision == 'int8' else None, FORMATS[form.format]
    metadata = metadata_of(model, made, None, False, quantised)
    path = Path(problem.folder.name) / f'{form.format}-{form.precision}{wanted.suffix}'
    images = [pixels for _, _, pixels in run_exported.windows(run_exported.read_image(problem.path), metadata)]
    calibration = [images] if quantised else []
    wanted.save(export_program(made), made, path, metadata, *calibration)
    precision = 'bf16' if form.precision == 'bf16' else 'f32'
    runner = run_exported.open_model(path, precision, torch.get_num_threads())

    def call() -> Tensor:
        segment_map, *_ = run_exported.panoptic_map(runner, run_exported.read_image(problem.path))
        return torch.from_numpy(segment_map)

    return call


add_forms(FILE_TO_PANOPTIC.side, 'eomt_mm', file_to_panoptic_in)
