"""Times post-processing beside transformers' processor and mmdet's fusion head, and measures its peak memory.

Timed on every side, on the same random logits: from class logits (1, Q, K + 1) and mask logits (1, Q, S/4, S/4) to the
result at the image's size, upsampling included:

- panoptic: ours is ``EoMTDetHead.predict`` (choice of queries, ``Padding.invert``, segments, mmdet's encoding);
  transformers' is ``EomtImageProcessor.post_process_panoptic_segmentation`` with its stuff classes named; mmdet's is
  the upsampling of ``MaskFormerHead.predict``, then ``MaskFormerFusionHead.predict`` with the published thresholds.
- instance: the same calls; ours and mmdet's make masks, scores, labels and boxes.

Sides take turns, in reversed order every second round. A ratio is the median of the paired ratios, with quartiles.
Memory is how far one call raises the resident set at most, after a call on a small problem, in a fresh process for each
side (Linux).

Examples:
    python tools/analysis/compare_postprocess.py --task panoptic
    python tools/analysis/compare_postprocess.py --task instance --threads 1
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1]))  # isort: skip
from eomt_mm.core.geometry import Padding, Size  # isort: skip  before the hosts
import torch
import torch.nn.functional as F
from mmdet.models import MaskFormerFusionHead
from mmdet.structures import DetDataSample
from torch import Tensor

from benchmark.harness import Spread, alternate, in_fresh_process, paired_ratio, peak_growth
from eomt_mm.models.heads import EoMTDetHead

THINGS, STUFF = 80, 53  # COCO
Call = Callable[[], Any]


def random_logits(args: argparse.Namespace) -> tuple[Tensor, Tensor]:
    """Class logits (1, Q, K + 1) of which ``args.kept`` pass 0.8, and mask logits (1, Q, S/4, S/4) of blurred discs."""
    generator = torch.Generator().manual_seed(0)
    num_classes = THINGS + (STUFF if args.task == 'panoptic' else 0)
    class_logits = torch.randn(args.queries, num_classes + 1, generator=generator)
    best = torch.full((args.queries,), num_classes)
    chosen = torch.randperm(args.queries, generator=generator)[: args.kept]
    best[chosen] = torch.randint(num_classes, (args.kept,), generator=generator)
    class_logits[torch.arange(args.queries), best] += 12
    place = torch.linspace(0, 1, args.size // 4)
    y, x, radius = torch.rand(3, args.queries, 1, 1, generator=generator)
    distance = ((place[:, None] - y) ** 2 + (place - x) ** 2).sqrt()
    mask_logits = 40 * (0.03 + 0.07 * radius - distance)
    return class_logits[None], mask_logits[None]


def our_call(args: argparse.Namespace, logits: tuple[Tensor, Tensor], geometry: Padding) -> Call:
    """``EoMTDetHead.predict`` on a sample."""
    stuff = STUFF if args.task == 'panoptic' else 0
    head = EoMTDetHead(args.task, THINGS, stuff, embed_dim=16, depth=2, patch_size=16, num_blocks=1)
    sample = DetDataSample(metainfo=dict(geometry=geometry))
    return lambda: head.predict(([logits[0]], [logits[1]]), [sample])


def mmdet_call(args: argparse.Namespace, logits: tuple[Tensor, Tensor], geometry: Padding) -> Call:
    """The upsampling of ``MaskFormerHead.predict``, then the fusion head at the image's own size."""
    panoptic = args.task == 'panoptic'
    settings = dict(object_mask_thr=0.8, iou_thr=0.8, filter_low_score=True, max_per_image=args.max_per_image)
    settings.update(panoptic_on=panoptic, instance_on=not panoptic)
    fusion = MaskFormerFusionHead(THINGS, STUFF if panoptic else 0, test_cfg=settings)
    sample = DetDataSample(metainfo=dict(img_shape=geometry.resized_size, ori_shape=geometry.ori_size))

    def call() -> Any:
        masks = F.interpolate(logits[1], geometry.input_size, mode='bilinear', align_corners=False)
        return fusion.predict(logits[0], masks, [sample], rescale=True)

    return call


def transformers_call(args: argparse.Namespace, logits: tuple[Tensor, Tensor], geometry: Padding) -> Call:
    from transformers import EomtImageProcessor

    processor = EomtImageProcessor(size=dict(shortest_edge=args.size, longest_edge=args.size))
    outputs = SimpleNamespace(class_queries_logits=logits[0], masks_queries_logits=logits[1])
    stuff_classes = list(range(THINGS, THINGS + STUFF))
    return lambda: processor.post_process_panoptic_segmentation(
        outputs, target_sizes=[geometry.ori_size], stuff_classes=stuff_classes
    )


MAKERS: dict[str, dict[str, Callable[..., Call]]] = dict(
    panoptic=dict(eomt_mm=our_call, mmdet=mmdet_call, transformers=transformers_call),
    instance=dict(eomt_mm=our_call, mmdet=mmdet_call),
)


def image_geometry(args: argparse.Namespace, ori_size: Size) -> Padding:
    scale = min(args.size / side for side in ori_size)
    height, width = (round(side * scale) for side in ori_size)
    return Padding(ori_size, (height, width), (args.size, args.size))


@torch.no_grad()
def peak_of_side(name: str, args: argparse.Namespace) -> int:
    """Bytes by which one call raises this process' memory at most; run it in a fresh process."""
    torch.set_num_threads(args.threads)
    make = MAKERS[args.task][name]
    small = argparse.Namespace(**dict(vars(args), size=64, queries=20, kept=5, max_per_image=5))
    make(small, random_logits(small), image_geometry(small, (48, 64)))()
    return peak_growth(make(args, random_logits(args), image_geometry(args, tuple(args.ori_size))))


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--task', choices=list(MAKERS), default='panoptic')
    parser.add_argument('--rounds', type=int, default=15)
    parser.add_argument('--threads', type=int, default=2)
    parser.add_argument('--size', type=int, default=640, help='side of the input')
    parser.add_argument('--ori-size', type=int, nargs=2, default=(480, 640), help='height and width of the image')
    parser.add_argument('--queries', type=int, default=200)
    parser.add_argument('--kept', type=int, default=25, help='queries with a class probability above 0.8')
    parser.add_argument('--max-per-image', type=int, default=100, help='instances')
    return parser.parse_args()


@torch.no_grad()
def main() -> None:
    args = parse_args()
    torch.set_num_threads(args.threads)
    logits, geometry = random_logits(args), image_geometry(args, tuple(args.ori_size))
    seconds = alternate({name: make(args, logits, geometry) for name, make in MAKERS[args.task].items()}, args.rounds)
    print(f'{args.task}: {args.queries} queries, {args.kept} kept, input {args.size}, image {tuple(args.ori_size)},')
    print(f'{args.threads} threads, medians of {args.rounds} rounds; memory: growth of the peak')
    memory = {name: in_fresh_process(peak_of_side, name, args) / 1e6 for name in seconds}
    for name, side in seconds.items():
        ratio = paired_ratio(side, seconds['eomt_mm'])
        print(
            f'  {name:13} {1e3 * Spread.of(side).median:7.1f} ms, {ratio.median:5.2f} of our time '
            f'({ratio.low:.2f} to {ratio.high:.2f}); '
            f'{memory[name]:5.0f} MB, {memory[name] / memory["eomt_mm"]:5.2f} of our memory'
        )


if __name__ == '__main__':
    main()
