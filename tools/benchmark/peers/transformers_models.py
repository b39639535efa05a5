"""transformers' sides: its EoMT, with fused attention and the weights of our network."""

from argparse import Namespace
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
import transformers
from PIL import Image
from torch import Tensor

from benchmark.configs import class_counts
from benchmark.forms import EAGER, Form, add_forms, in_torch
from benchmark.harness import Call, LeftOut
from benchmark.kept import keep_queries
from benchmark.subjects import network as ours
from benchmark.subjects.head import POSTPROCESS
from eomt_mm.checkpoints.exporting import huggingface_model


def network(problem: Namespace, size: int) -> Any:
    """Build its model in eval mode, masks off, with the weights of :func:`benchmark.subjects.network.network`.

    Raises:
        LeftOut: it has no such model.
    """
    model = ours.network(problem.cfg)
    num_heads = model.backbone.vit.blocks[0].attn.num_heads
    try:
        weights, config = huggingface_model(model.state_dict(), img_size=size, num_heads=num_heads)
    except ValueError as error:
        raise LeftOut(str(error)) from error
    kind: Any = getattr(transformers, config['architectures'][0])
    theirs = kind(kind.config_class.from_dict(config, attn_implementation='sdpa'))
    theirs.load_state_dict(weights)
    theirs.attn_mask_probs.zero_()  # its way to switch masks off
    return theirs.eval()


@ours.FORWARD.side('transformers')
def forward(problem: Namespace) -> Call:
    return forward_of(network(problem, problem.images.shape[-1]), problem)


def forward_of(theirs: Callable[..., Any], problem: Namespace) -> Call:
    """Make a call of its network, or of a form of it."""

    @torch.no_grad()
    def call() -> ours.Logits:
        output = theirs(pixel_values=problem.images)
        return output.class_queries_logits, output.masks_queries_logits

    return call


def forward_in(form: Form, problem: Namespace) -> Call:
    """Make a call of a form of its network."""
    return forward_of(in_torch(form, network(problem, problem.images.shape[-1])), problem)


add_forms(ours.FORWARD.side, 'transformers', forward_in, exports=False)


@ours.TRAINING.side('transformers')
def training(problem: Namespace) -> Call:
    """Training step with its own loss."""
    theirs = network(problem, problem.images.shape[-1]).train()
    theirs.attn_mask_probs.fill_(1)
    labels = [target['labels'] for target in problem.targets]
    masks = [target['masks'].float() for target in problem.targets]

    def loss_and_logits() -> tuple[Tensor, ours.Logits]:
        output = theirs(pixel_values=problem.images, mask_labels=masks, class_labels=labels)
        return output.loss, (output.class_queries_logits, output.masks_queries_logits)

    return ours.training_step(theirs, loss_and_logits)


def processor_of(size: int) -> Any:
    return transformers.EomtImageProcessor(
        size=dict(shortest_edge=size, longest_edge=size), do_pad=True, do_split_image=False
    )


def panoptic_map(processor: Any, outputs: Any, size: tuple[int, int], classes: tuple[int, int]) -> Tensor:
    """Post-process to segment ids (H, W) at ``size``; ``classes``: numbers of thing and stuff classes."""
    stuff = list(range(classes[0], sum(classes)))
    (found,) = processor.post_process_panoptic_segmentation(outputs, target_sizes=[size], stuff_classes=stuff)
    return found['segmentation']


@POSTPROCESS.side('transformers')
def postprocess(problem: Namespace) -> Call | None:
    """Post-processing by ``post_process_panoptic_segmentation``; panoptic maps only."""
    if problem.task != 'panoptic':
        return None
    processor = processor_of(max(problem.geometry.input_size))
    outputs = SimpleNamespace(class_queries_logits=problem.class_logits, masks_queries_logits=problem.mask_logits)
    classes = (problem.num_things, problem.num_stuff)
    return torch.no_grad()(lambda: panoptic_map(processor, outputs, problem.geometry.ori_size, classes))


@ours.FILE_TO_PANOPTIC.side('transformers')
def file_to_panoptic(problem: Namespace) -> Call:
    """From file to map: ``PIL.Image.open``, ``EomtImageProcessor``, model, ``post_process_panoptic_segmentation``."""
    return file_to_panoptic_in(EAGER, problem)


def file_to_panoptic_in(form: Form, problem: Namespace) -> Call:
    """Make a call of a form of its network."""
    size, classes = problem.cfg.img_size, class_counts(problem.cfg)
    theirs, processor = network(problem, size), processor_of(size)
    theirs.num_classes = sum(classes)
    keep_queries(theirs, problem.kept)
    run = in_torch(form, theirs)

    @torch.no_grad()
    def call() -> Tensor:
        image = Image.open(problem.path).convert('RGB')
        outputs = run(**processor(images=image, return_tensors='pt'))
        return panoptic_map(processor, outputs, image.size[::-1], classes)

    return call


add_forms(ours.FILE_TO_PANOPTIC.side, 'transformers', file_to_panoptic_in, exports=False)
