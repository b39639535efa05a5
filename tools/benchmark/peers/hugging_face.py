"""EoMT of transformers, with fused attention and the weights of our network."""

from argparse import Namespace
from types import SimpleNamespace
from typing import Any

import torch
import transformers
from PIL import Image
from torch import Tensor

from benchmark.harness import Call
from benchmark.models import class_counts, keep_queries
from benchmark.peers import ours
from eomt_mm.checkpoints.exporting import huggingface_model


def network(problem: Namespace, size: int) -> Any:
    """Its model in evaluation, masks off, with the weights of :func:`benchmark.peers.ours.network`."""
    model = ours.network(problem.cfg)
    num_heads = model.backbone.vit.blocks[0].attn.num_heads
    weights, config = huggingface_model(model.state_dict(), img_size=size, num_heads=num_heads)
    kind: Any = getattr(transformers, config['architectures'][0])
    theirs = kind(kind.config_class.from_dict(config, attn_implementation='sdpa'))
    theirs.load_state_dict(weights)
    theirs.attn_mask_probs.zero_()  # its way to switch masks off
    return theirs.eval()


def forward(problem: Namespace) -> Call:
    theirs = network(problem, problem.images.shape[-1])

    @torch.no_grad()
    def call() -> tuple[Tensor, Tensor]:
        output = theirs(pixel_values=problem.images)
        return output.class_queries_logits, output.masks_queries_logits

    return call


def training(problem: Namespace) -> Call:
    """A step with its own loss; its result: the last predictions."""
    theirs = network(problem, problem.images.shape[-1]).train()
    theirs.attn_mask_probs.fill_(1)
    optimizer = torch.optim.AdamW(theirs.parameters(), lr=1e-6)
    labels = [target['labels'] for target in problem.targets]
    masks = [target['masks'].float() for target in problem.targets]

    def call() -> tuple[Tensor, Tensor]:
        output = theirs(pixel_values=problem.images, mask_labels=masks, class_labels=labels)
        output.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return output.class_queries_logits.detach(), output.masks_queries_logits.detach()

    return call


def postprocess(problem: Namespace) -> Call | None:
    """``post_process_panoptic_segmentation`` with its stuff classes named; panoptic maps only."""
    if problem.task != 'panoptic':
        return None
    size = max(problem.geometry.input_size)
    processor = transformers.EomtImageProcessor(size=dict(shortest_edge=size, longest_edge=size))
    outputs = SimpleNamespace(class_queries_logits=problem.class_logits, masks_queries_logits=problem.mask_logits)
    stuff = list(range(problem.num_things, problem.num_things + problem.num_stuff))

    @torch.no_grad()
    def call() -> Tensor:
        (found,) = processor.post_process_panoptic_segmentation(
            outputs, target_sizes=[problem.geometry.ori_size], stuff_classes=stuff
        )
        return found['segmentation']

    return call


def file_to_panoptic(problem: Namespace) -> Call:
    """``PIL.Image.open``, ``EomtImageProcessor``, the model, and ``post_process_panoptic_segmentation``."""
    theirs = network(problem, problem.cfg.img_size)
    num_things, num_stuff = class_counts(problem.cfg)
    theirs.num_classes = num_things + num_stuff
    keep_queries(theirs, problem.kept)
    size = problem.cfg.img_size
    processor: Any = transformers.EomtImageProcessor(
        size=dict(shortest_edge=size, longest_edge=size), do_pad=True, do_split_image=False
    )
    stuff = list(range(num_things, num_things + num_stuff))

    @torch.no_grad()
    def call() -> Tensor:
        image = Image.open(problem.path).convert('RGB')
        outputs = theirs(**processor(images=image, return_tensors='pt'))
        (found,) = processor.post_process_panoptic_segmentation(
            outputs, target_sizes=[image.size[::-1]], stuff_classes=stuff
        )
        return found['segmentation']

    return call
