"""Times VidEoMT's forward pass on a clip beside EoMT on its frames one by one, and beside transformers' VidEoMT.

All sides have the same random weights and give logits of all frames. EoMT is what VidEoMT is without its state: the
ratio is what handing the queries on costs. transformers' model (sdpa) takes square frames only; elsewhere it is left
out. Outputs of all sides must agree before anything is timed.

Sides take turns, in reversed order every second round. A ratio is the median of the paired ratios, with quartiles.

Examples:
    python projects/videomt/tools/compare_speed.py --models s --size 640 640 --rounds 5
    python projects/videomt/tools/compare_speed.py --models s b l --size 448 768 --frames 5
"""

import argparse
import statistics
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # isort: skip
from eomt_mm.benchmarking.side_by_side import Spread, alternate, paired_ratio  # isort: skip
import torch
from torch import Tensor, nn
from transformers import VideomtConfig, VideomtForUniversalSegmentation
from videomt.formats import HUGGING_FACE
from videomt.network import VidEoMTHead, videomt_forward

from eomt_mm.checkpoints.rules import map_to_theirs
from eomt_mm.models.backbone import TimmViT
from eomt_mm.models.eomt import eomt_forward

NUM_CLASSES, NUM_QUERIES = 40, 200  # YouTube-VIS
TOLERANCE = 1e-4  # of the range of the outputs, in float32
# Name in timm, attention heads, further settings. 'tiny' is for trying the tool out.
MODELS: dict[str, tuple[str, int, dict[str, Any]]] = dict(
    tiny=('vit_small_patch14_reg4_dinov2', 2, dict(embed_dim=32, depth=3, num_heads=2)),
    s=('vit_small_patch14_reg4_dinov2', 6, {}),
    b=('vit_base_patch14_reg4_dinov2', 12, {}),
    l=('vit_large_patch14_reg4_dinov2', 16, {}),
)
Logits = tuple[Tensor, Tensor]  # of classes (T, Q, K + 1) and masks (T, Q, H/4, W/4)


class Network(nn.Module):
    """Our backbone and head."""

    def __init__(self, model: str, img_size: int) -> None:
        super().__init__()
        name, _, sizes = MODELS[model]
        self.backbone = TimmViT(name, img_size, init_values=1.0, **sizes)
        vit = self.backbone
        self.head = VidEoMTHead(
            embed_dim=vit.embed_dim, depth=vit.depth, patch_size=vit.patch_size, num_classes=NUM_CLASSES,
            num_queries=NUM_QUERIES,
        )  # fmt: skip

    def windows(self, frames: Tensor, length: int) -> Logits:
        """VidEoMT on frames (1, T, 3, H, W) that come in windows."""
        found, state = [], None
        for window in frames.split(length, dim=1):
            predictions, state = videomt_forward(self.backbone, self.head, window, state)
            found.append((predictions.class_logits[-1][0], predictions.mask_logits[-1][0]))
        return joined(found)

    def eomt(self, frames: Tensor) -> Logits:
        """EoMT on the same frames, one by one."""
        found = []
        for frame in frames[0].split(1):
            class_logits, mask_logits = eomt_forward(self.backbone, self.head, frame)
            found.append((class_logits[-1], mask_logits[-1]))
        return joined(found)


def joined(found: list[Logits]) -> Logits:
    """One after the other; what is alone is not copied."""
    if len(found) == 1:
        return found[0]
    classes, masks = (torch.cat(parts) for parts in zip(*found, strict=True))
    return classes, masks


def their_network(ours: Network, model: str, size: int) -> Any:
    """Transformers' model with our weights."""
    vit = ours.backbone
    config: dict[str, Any] = dict(
        hidden_size=vit.embed_dim, num_hidden_layers=vit.depth, num_attention_heads=MODELS[model][1], image_size=size,
        num_blocks=ours.head.num_blocks, num_queries=NUM_QUERIES, num_labels=NUM_CLASSES, attn_implementation='sdpa',
    )  # fmt: skip
    theirs = VideomtForUniversalSegmentation(VideomtConfig(**config))
    # strict=False: it has a mask token and class weights of its loss, which are not used here
    theirs.load_state_dict(map_to_theirs(ours.state_dict(), HUGGING_FACE.rules(False)), strict=False)
    return theirs.eval()


def their_logits(theirs: Any, frames: Tensor) -> Logits:
    output = theirs(pixel_values_videos=frames)
    return output.class_queries_logits, output.masks_queries_logits


def sides(model: str, args: argparse.Namespace) -> dict[str, Callable[[], Logits]]:
    """A call for each side.

    Raises:
        RuntimeError: two that should agree do not.
    """
    torch.manual_seed(0)
    height, width = args.size
    ours = Network(model, args.size[0] if height == width else 640).eval()
    frames = torch.randn(1, args.frames, 3, height, width, generator=torch.Generator().manual_seed(1))
    ours, frames = ours.to(args.device), frames.to(args.device)
    calls: dict[str, Callable[[], Logits]] = dict(eomt=partial(ours.eomt, frames))
    for length in dict.fromkeys((1, args.frames)):
        calls[f'window {length}'] = partial(ours.windows, frames, length)
    if height == width:
        calls['transformers'] = partial(their_logits, their_network(ours, model, height).to(args.device), frames)
    expected = calls['window 1']()
    for name, call in calls.items():
        until = 1 if name == 'eomt' else None  # later frames know the earlier ones
        for found, other in zip(call(), expected, strict=True):
            difference = (found[:until] - other[:until]).abs().max() / (other.max() - other.min())
            if args.dtype == 'float32' and difference > TOLERANCE:
                raise RuntimeError(f'{model}, {name}: outputs differ by {float(difference):.1e} of their range')
    return calls


def shown(spread: Spread) -> str:
    return f'{spread.median:.3f} ({spread.low:.3f} to {spread.high:.3f})'


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--models', nargs='+', choices=list(MODELS), default=['s', 'b', 'l'])
    parser.add_argument('--size', type=int, nargs=2, default=(640, 640), metavar=('H', 'W'), help='of the frames')
    parser.add_argument('--frames', type=int, default=5, help='of the clip')
    parser.add_argument('--rounds', type=int, default=10)
    parser.add_argument('--threads', type=int, default=2)
    parser.add_argument('--device', default='cpu')
    parser.add_argument('--dtype', choices=['float32', 'float16', 'bfloat16'], default='float32', help='autocast')
    return parser.parse_args()


@torch.no_grad()
def main() -> None:
    args = parse_args()
    torch.set_num_threads(args.threads)
    print(f'forward, {args.dtype}, {args.frames} frames of {args.size[0]} x {args.size[1]}, {args.device}, '
          f'{args.threads} threads; medians and quartiles of {args.rounds} paired ratios\n')  # fmt: skip
    print('| model | side | per frame | against EoMT frame by frame |')
    print('| --- | --- | ---: | ---: |')
    kind = torch.device(args.device).type
    for model in args.models:
        with torch.autocast(kind, getattr(torch, args.dtype), enabled=args.dtype != 'float32'):
            seconds = alternate(sides(model, args), args.rounds, warmup=1)
        for name, values in seconds.items():
            frame = 1e3 * statistics.median(values) / args.frames
            print(f'| {model} | {name} | {frame:.0f} ms | {shown(paired_ratio(values, seconds["eomt"]))} |', flush=True)


if __name__ == '__main__':
    main()
