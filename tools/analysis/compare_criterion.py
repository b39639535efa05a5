"""Times matching and losses beside mmdet's ``Mask2FormerHead.loss_by_feat``, and measures their peak memory.

Both sides get the same tensors: class and mask logits of all prediction layers, which want gradients, and per image
labels and bool masks (mmdet's own preprocessing makes int64 masks, which takes it longer). mmdet's head is built from
its own config of Mask2Former for COCO panoptic; the settings are the published ones on both sides. Timed are forward
alone, and forward with the backward pass down to the logits.

Before, losses are compared: with random numbers that are equal wherever both draw as many, a single layer must give the
same losses and gradients. mmdet draws matching points for every layer, where ours share one draw.

Sides take turns, in reversed order every second round. A ratio is the median of the paired ratios, with quartiles.
Memory is how far forward and backward raise the resident set at most, after a small problem, in a fresh process for
each side (Linux); the gradients of the logits are in it.

Example:
    python tools/analysis/compare_criterion.py
"""

import argparse
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))  # isort: skip
from benchmark.harness import Spread, alternate, in_fresh_process, paired_ratio, peak_growth  # isort: skip
import mmdet
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from mmengine.structures import InstanceData
from torch import Tensor

import eomt_mm  # noqa: F401  before the hosts
from eomt_mm.core.criterion import Criterion

STOCK = Path(mmdet.__file__).parent / '.mim/configs/mask2former/mask2former_r50_8xb2-lsj-50e_coco-panoptic.py'
NUM_CLASSES = 133  # COCO panoptic
Losses = dict[str, Tensor]
Problem = tuple[list[Tensor], list[Tensor], list[dict[str, Tensor]]]


def make_problem(args: argparse.Namespace) -> Problem:
    """Class logits (B, Q, K + 1) and mask logits (B, Q, S/4, S/4) per layer, and targets whose masks are rectangles."""
    generator = torch.Generator().manual_seed(0)
    size, shape = args.size, (args.batch, args.queries)
    classes = [torch.randn(*shape, NUM_CLASSES + 1, generator=generator) for _ in range(args.layers)]
    masks = [3 * torch.randn(*shape, size // 4, size // 4, generator=generator) for _ in range(args.layers)]
    place = torch.arange(size)

    def inside(num: int) -> Tensor:  # (num, size), a stretch of each row
        start, length = torch.rand(2, num, 1, generator=generator)
        return (place >= 0.6 * size * start) & (place < size * (0.6 * start + 0.05 + 0.3 * length))

    targets = [
        dict(
            labels=torch.randint(NUM_CLASSES, (args.targets,), generator=generator),
            masks=inside(args.targets)[:, :, None] & inside(args.targets)[:, None, :],
        )
        for _ in range(args.batch)
    ]
    return [x.requires_grad_() for x in classes], [x.requires_grad_() for x in masks], targets


def our_losses(args: argparse.Namespace) -> Callable[[Problem], Losses]:
    criterion = Criterion(NUM_CLASSES, num_points=args.points)
    return lambda problem: criterion(*problem)


def mmdet_losses(args: argparse.Namespace) -> Callable[[Problem], Losses]:
    cfg = Config.fromfile(STOCK).model
    cfg.train_cfg.num_points = args.points
    with DefaultScope.overwrite_default_scope('mmdet'):
        import mmdet.models  # noqa: F401  registers

        head = MODELS.build(
            dict(cfg.panoptic_head, num_queries=args.queries, train_cfg=cfg.train_cfg, test_cfg=cfg.test_cfg)
        )

    def losses(problem: Problem) -> Losses:
        classes, masks, targets = problem
        return head.loss_by_feat(classes, masks, [InstanceData(**target) for target in targets], [{}] * len(targets))

    return losses


SIDES = {'eomt_mm': our_losses, 'mmdet': mmdet_losses}


def step(losses: Callable[[Problem], Losses], problem: Problem) -> None:
    """Forward and backward; gradients start anew, as after an optimiser's step."""
    for logits in (*problem[0], *problem[1]):
        logits.grad = None
    values(losses(problem)).sum().backward()


def values(losses: Losses) -> Tensor:
    """As a vector, sorted by name; mmdet's are of shape () or (1,)."""
    return torch.cat([losses[name].flatten() for name in sorted(losses)])


def difference(sides: dict[str, Callable[[Problem], Losses]], problem: Problem) -> tuple[float, float]:
    """Largest differences between the sides, of a layer's losses, relative, and of gradients, to the largest one.

    Each layer by itself, from the same seed: then both sides draw the same points.
    """
    worst_loss = worst_gradient = 0.0
    for classes, masks in zip(problem[0], problem[1], strict=True):
        found = []
        for side in sides.values():
            torch.manual_seed(0)
            losses = values(side(([classes], [masks], problem[2])))
            found.append((losses.detach(), torch.autograd.grad(losses.sum(), [classes, masks])))
        (one, our_gradients), (other, their_gradients) = found
        worst_loss = max(worst_loss, ((one - other) / other).abs().max().item())
        for a, b in zip(our_gradients, their_gradients, strict=True):
            worst_gradient = max(worst_gradient, ((a - b).abs().max() / b.abs().max()).item())
    return worst_loss, worst_gradient


def peak_bytes(name: str, args: argparse.Namespace) -> int:
    """How far a step raises this process' memory at most; run it in a fresh process."""
    torch.set_num_threads(args.threads)
    small = argparse.Namespace(**dict(vars(args), size=64, batch=1, targets=3, points=112))
    step(SIDES[name](small), make_problem(small))
    losses, problem = SIDES[name](args), make_problem(args)
    return peak_growth(lambda: step(losses, problem))


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--rounds', type=int, default=5)
    parser.add_argument('--threads', type=int, default=2)
    parser.add_argument('--size', type=int, default=640, help='side of the targets; mask logits are a quarter')
    parser.add_argument('--batch', type=int, default=4)
    parser.add_argument('--targets', type=int, default=40, help='per image')
    parser.add_argument('--layers', type=int, default=5)
    parser.add_argument('--queries', type=int, default=200)
    parser.add_argument('--points', type=int, default=12544, help='per mask')
    return parser.parse_args()


def report(what: str, seconds: dict[str, list[float]]) -> None:
    times = {name: Spread.of(values).median for name, values in seconds.items()}
    ratio = paired_ratio(seconds['mmdet'], seconds['eomt_mm'])
    print(
        f'{what:20} eomt_mm {1e3 * times["eomt_mm"]:6.0f} ms, mmdet {1e3 * times["mmdet"]:6.0f} ms: '
        f'{ratio.median:.2f} x as fast (quartiles {ratio.low:.2f} to {ratio.high:.2f})',
        flush=True,
    )


def main() -> None:
    args = parse_args()
    torch.set_num_threads(args.threads)
    print(
        f'{args.layers} layers, batch {args.batch}, {args.queries} queries, {args.targets} targets of {args.size} x '
        f'{args.size} each, {args.points} points, float32, {args.threads} threads, {args.rounds} rounds'
    )
    memory = {name: in_fresh_process(peak_bytes, name, args) for name in SIDES}
    problem = make_problem(args)
    sides = {name: make(args) for name, make in SIDES.items()}
    print('equal points: losses differ by {:.1e}, gradients by {:.1e}, relative'.format(*difference(sides, problem)))
    forward = {name: partial(side, problem) for name, side in sides.items()}
    report('forward', alternate(forward, args.rounds, warmup=1))
    both = {name: partial(step, side, problem) for name, side in sides.items()}
    report('forward + backward', alternate(both, args.rounds, warmup=1))
    ours, theirs = memory['eomt_mm'], memory['mmdet']
    print(f'peak memory          eomt_mm {ours / 1e6:6.0f} MB, mmdet {theirs / 1e6:6.0f} MB: {ours / theirs:.2f} of it')


if __name__ == '__main__':
    main()
