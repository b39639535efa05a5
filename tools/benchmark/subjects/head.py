"""Subjects after the network: matching with losses, and post-processing, of given logits of COCO's classes."""

from argparse import Namespace
from collections.abc import Callable, Mapping

import torch
from mmdet.structures import DetDataSample
from torch import Tensor

from benchmark.harness import Call
from benchmark.inputs import random_targets
from benchmark.subject import SHAPE, SIZE, SUBJECTS, Subject, check_maps, check_tensors, integer
from eomt_mm.core.criterion import Criterion
from eomt_mm.core.geometry import Padding
from eomt_mm.models.heads import EoMTDetHead

THINGS, STUFF = 80, 53  # COCO


def criterion_problem(args: Namespace) -> Namespace:
    """Generate class logits (B, Q, K + 1) and mask logits (B, Q, S/4, S/4) per layer, and targets."""
    generator = torch.Generator().manual_seed(0)
    shape, side = (args.batch, args.queries), args.size // 4
    num_classes = THINGS + STUFF
    classes = [torch.randn(*shape, num_classes + 1, generator=generator) for _ in range(args.layers)]
    masks = [3 * torch.randn(*shape, side, side, generator=generator) for _ in range(args.layers)]
    return Namespace(
        class_logits=[x.requires_grad_() for x in classes],
        mask_logits=[x.requires_grad_() for x in masks],
        targets=random_targets(args.batch, args.targets, args.size, num_classes),
        num_classes=num_classes,
        num_points=args.points,
        backward=not args.forward_only,
    )


CRITERION = SUBJECTS['criterion'] = Subject(
    help="matching, losses and gradients of the logits, beside mmdet's Mask2FormerHead.loss_by_feat; compared on one "
    'layer, where both draw the same points',
    problem=criterion_problem,
    check=check_tensors,
    options=SIZE
    | {
        '--batch': integer(4, 'images'),
        '--targets': integer(40, 'per image'),
        '--layers': integer(5, 'predictions'),
        '--queries': integer(200, 'per image'),
        '--points': integer(12544, 'per mask'),
        '--forward-only': dict(action='store_true', help='no gradients'),
    },
    rounds=5,
    exact=dict(layers=1),
    small=dict(size=64, batch=1, targets=3, points=112),
)


def losses_call(problem: Namespace, losses: Callable[[], Mapping[str, Tensor]]) -> Call:
    """Make a call of ``losses()``, which returns tensors () or (1,) by name; result: these, sorted, and gradients."""
    logits = [*problem.class_logits, *problem.mask_logits]

    def call() -> list[Tensor]:
        for one in logits:
            one.grad = None  # reset gradients, as after an optimiser step
        found = losses()
        values = torch.cat([found[name].flatten() for name in sorted(found)])
        if not problem.backward:
            return [values.detach()]
        values.sum().backward()
        return [values.detach(), *(one.grad for one in logits if one.grad is not None)]

    return call


@CRITERION.side('eomt_mm')
def criterion(problem: Namespace) -> Call:
    losses = Criterion(problem.num_classes, num_points=problem.num_points)
    return losses_call(problem, lambda: losses(problem.class_logits, problem.mask_logits, problem.targets))


def postprocess_problem(args: Namespace) -> Namespace:
    """Generate class logits (1, Q, K + 1), ``args.kept`` above 0.8, mask logits (1, Q, S/4, S/4) of blurred discs."""
    generator = torch.Generator().manual_seed(0)
    num_stuff = STUFF if args.task == 'panoptic' else 0
    num_classes, queries = THINGS + num_stuff, args.queries
    class_logits = torch.randn(queries, num_classes + 1, generator=generator)
    best = torch.full((queries,), num_classes)
    chosen = torch.randperm(queries, generator=generator)[: args.kept]
    best[chosen] = torch.randint(num_classes, (len(chosen),), generator=generator)
    class_logits[torch.arange(queries), best] += 12
    place = torch.linspace(0, 1, args.size // 4)
    y, x, radius = torch.rand(3, queries, 1, 1, generator=generator)
    distance = ((place[:, None] - y) ** 2 + (place - x) ** 2).sqrt()
    height, width = (round(side * args.size / max(args.ori_size)) for side in args.ori_size)
    return Namespace(
        task=args.task,
        class_logits=class_logits[None],
        mask_logits=40 * (0.03 + 0.07 * radius - distance)[None],
        geometry=Padding(tuple(args.ori_size), (height, width), (args.size, args.size)),
        num_things=THINGS,
        num_stuff=num_stuff,
        max_per_image=args.max_per_image,
    )


POSTPROCESS = SUBJECTS['postprocess'] = Subject(
    help="logits to the result at the image's size, upsampling included, beside mmdet's fusion head and, for panoptic "
    'maps, the processor of transformers',
    problem=postprocess_problem,
    check=check_maps,
    options={'--task': dict(choices=['panoptic', 'instance'], default='panoptic', help='of the result')}
    | SIZE
    | SHAPE
    | {
        '--queries': integer(200, 'per image'),
        '--kept': integer(25, 'queries with a class probability above 0.8'),
        '--max-per-image': integer(100, 'instances'),
    },
    rounds=15,
    small=dict(size=64, ori_size=(48, 64), queries=20, kept=5, max_per_image=5),
)


@POSTPROCESS.side('eomt_mm')
def postprocess(problem: Namespace) -> Call:
    """Our ``EoMTDetHead.predict``: choice of queries, ``Padding.invert``, segments or instances, mmdet's encoding."""
    sizes = dict(embed_dim=16, depth=2, patch_size=16, num_blocks=1, max_per_image=problem.max_per_image)
    head = EoMTDetHead(problem.task, problem.num_things, problem.num_stuff, **sizes)
    sample = DetDataSample(metainfo=dict(geometry=problem.geometry))

    @torch.no_grad()
    def call() -> Tensor | None:
        (found,) = head.predict(([problem.class_logits], [problem.mask_logits]), [sample])
        return found.pred_panoptic_seg.sem_seg[0] if problem.task == 'panoptic' else None

    return call
