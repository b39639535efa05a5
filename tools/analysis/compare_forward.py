"""Times our forward pass beside timm's plain ViT and transformers' ``EomtForUniversalSegmentation``, masks off.

The three are the same DINOv2 backbone, float32, random weights, one image. timm's is ``forward_features`` of the very
ViT inside our model: what queries, scale blocks and masks cost on top. transformers' model (sdpa) has our weights,
brought over by the importer; its outputs must agree with ours before anything is timed.

Sides take turns, in reversed order every second round. A ratio is the median of the paired ratios, with quartiles.

Example:
    python tools/analysis/compare_forward.py --models s b l --rounds 10
"""

import argparse
import statistics
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1]))  # isort: skip
from benchmark.harness import Spread, alternate, paired_ratio  # isort: skip
import torch
from torch import Tensor, nn
from transformers import EomtConfig, EomtForUniversalSegmentation
from transformers.utils.logging import disable_progress_bar

from eomt_mm.checkpoints.importing import import_checkpoint
from eomt_mm.core.backbone import PlainViT
from eomt_mm.core.head import EoMTHead
from eomt_mm.core.network import Predictions, eomt_forward

NUM_CLASSES, NUM_QUERIES = 133, 200  # COCO panoptic
TOLERANCE = 1e-4  # of the range of the outputs, in float32
# Width, depth and heads; name in timm. 'tiny' is for trying the tools out.
MODELS = dict(
    tiny=(32, 3, 2, 'vit_small_patch14_reg4_dinov2'),
    s=(384, 12, 6, 'vit_small_patch14_reg4_dinov2'),
    b=(768, 12, 12, 'vit_base_patch14_reg4_dinov2'),
    l=(1024, 24, 16, 'vit_large_patch14_reg4_dinov2'),
)


class Network(nn.Module):
    """Our backbone and head, under the names that the importer knows; called, it gives all predictions."""

    def __init__(self, model: str, size: int) -> None:
        super().__init__()
        width, depth, heads, name = MODELS[model]
        self.backbone = PlainViT(name, size, embed_dim=width, depth=depth, num_heads=heads, init_values=1.0)
        self.panoptic_head = EoMTHead(width, depth, self.backbone.patch_size, NUM_CLASSES, NUM_QUERIES)

    def forward(self, images: Tensor) -> Predictions:
        return eomt_forward(self.backbone, self.panoptic_head, images)


def build_transformers(model: str, size: int, num_blocks: int) -> Any:
    """Its model with random weights and fused attention."""
    width, depth, heads, _ = MODELS[model]
    config: Any = EomtConfig  # its fields are not all typed
    return EomtForUniversalSegmentation(
        config(
            hidden_size=width,
            num_hidden_layers=depth,
            num_attention_heads=heads,
            image_size=size,
            num_blocks=num_blocks,
            num_queries=NUM_QUERIES,
            num_labels=NUM_CLASSES,
            attn_implementation='sdpa',
        )
    )


def equal_pair(model: str, size: int) -> tuple[Network, Any]:
    """Our network and transformers' with equal weights, both in evaluation, masks off."""
    torch.manual_seed(0)
    ours = Network(model, size)
    theirs = build_transformers(model, size, ours.panoptic_head.num_blocks)
    disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        weights, _ = import_checkpoint(folder, ours.state_dict())
    ours.load_state_dict(weights)
    theirs.attn_mask_probs.zero_()  # its way to switch masks off
    return ours.eval(), theirs.eval()


@torch.no_grad()
def difference(ours: Network, theirs: Any, images: Tensor) -> float:
    """Largest difference of the logits, relative to their range."""
    class_logits, mask_logits = ours(images)
    output = theirs(pixel_values=images)
    pairs = [(class_logits[-1], output.class_queries_logits), (mask_logits[-1], output.masks_queries_logits)]
    return max(float((mine - other).abs().max() / (other.max() - other.min())) for mine, other in pairs)


@torch.no_grad()
def times(model: str, args: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds of each side, round by round.

    Raises:
        RuntimeError: where transformers' model computes something else.
    """
    ours, theirs = equal_pair(model, args.size)
    images = torch.randn(args.batch, 3, args.size, args.size, generator=torch.Generator().manual_seed(1))
    found = difference(ours, theirs, images)
    if found > TOLERANCE:
        raise RuntimeError(f'{model}: outputs differ from those of transformers by {found:.1e} of their range')
    calls = dict(
        eomt_mm=partial(ours, images),
        timm=partial(ours.backbone.vit.forward_features, images),
        transformers=partial(theirs, pixel_values=images),
    )
    return alternate(calls, args.rounds, warmup=1)


def shown(spread: Spread) -> str:
    return f'{spread.median:.2f} ({spread.low:.2f} to {spread.high:.2f})'


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--models', nargs='+', choices=list(MODELS), default=['s', 'b', 'l'])
    parser.add_argument('--size', type=int, default=640, help='side of the input')
    parser.add_argument('--batch', type=int, default=1)
    parser.add_argument('--rounds', type=int, default=10)
    parser.add_argument('--threads', type=int, default=2)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    torch.set_num_threads(args.threads)
    print(f'forward, float32, {args.size} x {args.size}, batch {args.batch}, {args.threads} threads, masks off;')
    print(f'medians and quartiles of {args.rounds} paired ratios\n')
    print('| model | our time | against timm, the ViT alone | transformers against ours |')
    print('| --- | ---: | ---: | ---: |')
    for model in args.models:
        seconds = times(model, args)
        ours = seconds['eomt_mm']
        print(
            f'| {model} | {1e3 * statistics.median(ours):.0f} ms | {shown(paired_ratio(ours, seconds["timm"]))} | '
            f'{shown(paired_ratio(seconds["transformers"], ours))} |',
            flush=True,
        )


if __name__ == '__main__':
    main()
