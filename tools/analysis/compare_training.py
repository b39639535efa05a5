"""Times a whole training step beside transformers' ``EomtForUniversalSegmentation``, and measures its peak memory.

Both sides have equal weights, images and targets, and all masks on (probability 1): forward with every intermediate
prediction, matching, losses, backward, AdamW; float32, random weights. transformers' model runs with sdpa and its own
loss. Before, the final predictions must agree; transformers draws its own points for matching and losses.

Sides take turns in one process, in reversed order every second round; a ratio is the median of the paired ratios, with
quartiles. Memory is the most that a fresh process for each side ever holds, all told (Linux).

Example:
    python tools/analysis/compare_training.py --model s --batch 2
"""

import argparse
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1]))  # isort: skip
from benchmark.harness import alternate, in_fresh_process, paired_ratio, resident  # isort: skip
import torch
from compare_forward import (  # type: ignore[import-not-found]
    MODELS,
    NUM_CLASSES,
    TOLERANCE,
    Network,
    build_transformers,
    difference,
    equal_pair,
    shown,
)
from torch import Tensor, nn

from eomt_mm.core.criterion import Criterion

Targets = list[dict[str, Tensor]]
SIDES = ('eomt_mm', 'transformers')


def make_batch(args: argparse.Namespace) -> tuple[Tensor, Targets]:
    """Images (B, 3, S, S), and per image labels (N,) and bool masks (N, S, S) of rectangles."""
    generator = torch.Generator().manual_seed(1)
    place = torch.linspace(0, 1, args.size)

    def inside() -> Tensor:  # (N, S), a stretch of each row
        start, length = torch.rand(2, args.targets, 1, generator=generator)
        return (place >= 0.7 * start) & (place < 0.7 * start + 0.1 + 0.3 * length)

    images = torch.randn(args.batch, 3, args.size, args.size, generator=generator)
    targets = [
        dict(
            labels=torch.randint(NUM_CLASSES, (args.targets,), generator=generator),
            masks=inside()[:, :, None] & inside()[:, None, :],
        )
        for _ in range(args.batch)
    ]
    return images, targets


def our_loss(network: Network, images: Tensor, targets: Targets) -> Callable[[], Tensor]:
    criterion = Criterion(NUM_CLASSES)
    return lambda: sum(criterion(*network(images), targets).values(), torch.zeros(()))


def their_loss(network: Any, images: Tensor, targets: Targets) -> Callable[[], Tensor]:
    labels = [target['labels'] for target in targets]
    masks = [target['masks'].float() for target in targets]
    return lambda: network(pixel_values=images, mask_labels=masks, class_labels=labels).loss


def step_of(network: nn.Module, loss: Callable[[], Tensor]) -> Callable[[], None]:
    """Forward, backward and AdamW."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-6)

    def step() -> None:
        loss().backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def make_step(side: str, network: Any, args: argparse.Namespace) -> Callable[[], None]:
    make_loss = dict(eomt_mm=our_loss, transformers=their_loss)[side]
    network.train()
    if side == 'eomt_mm':
        network.panoptic_head.set_attn_mask_probs([1.0] * network.panoptic_head.num_blocks)
    else:
        network.attn_mask_probs.fill_(1)
    return step_of(network, make_loss(network, *make_batch(args)))


def times(args: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds of each side, round by round.

    Raises:
        RuntimeError: where the last predictions differ.
    """
    networks = dict(zip(SIDES, equal_pair(args.model, args.size), strict=True))
    steps = {side: make_step(side, network, args) for side, network in networks.items()}
    found = difference(*networks.values(), make_batch(args)[0])
    if found > TOLERANCE:
        raise RuntimeError(f'outputs differ from those of transformers by {found:.1e} of their range')
    return alternate(steps, args.rounds, warmup=1)


def peak_of_steps(side: str, args: argparse.Namespace) -> int:
    """Bytes that a process holds at most, having made two steps; run it in a fresh one."""
    torch.set_num_threads(args.threads)
    network = Network(args.model, args.size)
    if side == 'transformers':
        network = build_transformers(args.model, args.size, network.panoptic_head.num_blocks)
    step = make_step(side, network, args)
    for _ in range(2):
        step()
    return resident('VmHWM')


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--model', choices=list(MODELS), default='s')
    parser.add_argument('--size', type=int, default=640, help='side of the input')
    parser.add_argument('--batch', type=int, default=2)
    parser.add_argument('--targets', type=int, default=15, help='per image')
    parser.add_argument('--rounds', type=int, default=3)
    parser.add_argument('--threads', type=int, default=2)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    torch.set_num_threads(args.threads)
    print(f'training step of EoMT-{args.model}, float32, {args.size} x {args.size}, batch {args.batch}, ', end='')
    print(f'{args.targets} targets per image, masks on, {args.threads} threads, {args.rounds} rounds\n')
    seconds = times(args)
    memory = {side: in_fresh_process(peak_of_steps, side, args) for side in SIDES}
    print('| side | time of a step | speed against transformers | peak memory | against transformers |')
    print('| --- | ---: | ---: | ---: | ---: |')
    for side in SIDES:
        speed = shown(paired_ratio(seconds['transformers'], seconds[side]))
        print(
            f'| {side} | {statistics.median(seconds[side]):.2f} s | {speed} | {memory[side] / 1e6:.0f} MB | '
            f'{memory[side] / memory["transformers"]:.2f} |'
        )


if __name__ == '__main__':
    main()
