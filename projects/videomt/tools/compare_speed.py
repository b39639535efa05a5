"""Times VidEoMT's forward pass on a clip beside EoMT on its frames one by one, and beside transformers' VidEoMT.

All sides have the same random weights and give logits of all frames. EoMT is what VidEoMT is without its state: the
ratio is what handing the queries on costs. transformers' model (sdpa) is of DINOv2 with registers, and takes square
frames only; elsewhere it is left out. Outputs of all sides must agree before anything is timed.

`tools/benchmark.py` times configs that differ, from files, in training, and counts operations and memory.

Sides take turns, in reversed order every second round. A ratio is the median of the paired ratios, with quartiles.

Examples:
    python projects/videomt/tools/compare_speed.py --models s --size 640 640 --rounds 5
    python projects/videomt/tools/compare_speed.py --models s b l --size 448 768 --frames 5
    python projects/videomt/tools/compare_speed.py --config videomt_dinov2-l_160k_ovis-544 --size 544 960
"""

import argparse
import statistics
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # isort: skip
sys.path.append(str(Path(__file__).resolve().parents[3] / 'tools'))  # isort: skip
from benchmark.harness import alternate, paired_ratio  # isort: skip
import torch
from torch import Tensor, nn
from transformers import VideomtConfig, VideomtForUniversalSegmentation
from videomt.formats import HUGGING_FACE
from videomt.network import VidEoMTHead, videomt_forward

from benchmark.configs import is_video, side_config
from benchmark.models import build_model
from eomt_mm.checkpoints.describe import describe
from eomt_mm.checkpoints.rules import map_to_theirs
from eomt_mm.core.backbone import PlainViT
from eomt_mm.core.network import eomt_forward

NUM_CLASSES, NUM_QUERIES = 40, 200  # YouTube-VIS
TOLERANCE = 1e-4  # of the range of the outputs, which are compared in float32
# Name in timm and further settings. 'tiny' is for trying the tool out.
MODELS: dict[str, tuple[str, dict[str, Any]]] = dict(
    tiny=('vit_small_patch14_reg4_dinov2', dict(embed_dim=32, depth=3, num_heads=2)),
    s=('vit_small_patch14_reg4_dinov2', {}),
    b=('vit_base_patch14_reg4_dinov2', {}),
    l=('vit_large_patch14_reg4_dinov2', {}),
)
Logits = tuple[Tensor, Tensor]  # of classes (T, Q, K + 1) and masks (T, Q, H/4, W/4)


class Network(nn.Module):
    """Our backbone and head."""

    def __init__(self, backbone: PlainViT, head: VidEoMTHead) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head

    @classmethod
    def of_size(cls, model: str, img_size: int) -> 'Network':
        """One of ``MODELS``."""
        name, sizes = MODELS[model]
        vit = PlainViT(name, img_size, init_values=1.0, **sizes)
        head = VidEoMTHead(
            embed_dim=vit.embed_dim, depth=vit.depth, patch_size=vit.patch_size, num_classes=NUM_CLASSES,
            num_queries=NUM_QUERIES,
        )  # fmt: skip
        return cls(vit, head)

    @classmethod
    def of_config(cls, config: str, img_size: int) -> 'Network':
        """That of a config.

        Raises:
            ValueError: it is none of videos.
        """
        cfg = side_config(config, options={'model.backbone.img_size': img_size})
        if not is_video(cfg):
            raise ValueError(f'--config {config}: it is none of videos; tools/benchmark.py compares any configs')
        model = build_model(cfg, None, 'cpu')
        return cls(model.backbone, model.panoptic_head)

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


def their_network(ours: Network, size: int) -> Any:
    """Transformers' model with our weights."""
    vit = ours.backbone
    attention: Any = vit.vit.blocks[0].attn
    config: dict[str, Any] = dict(
        hidden_size=vit.embed_dim, num_hidden_layers=vit.depth, num_attention_heads=attention.num_heads,
        image_size=size, num_blocks=ours.head.num_blocks, num_queries=ours.head.num_queries,
        num_labels=ours.head.num_classes, attn_implementation='sdpa',
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
        ValueError: the config is none of VidEoMT.
        RuntimeError: two that should agree do not.
    """
    torch.manual_seed(0)
    height, width = args.size
    img_size = height if height == width else 640
    ours = (Network.of_config(args.config, img_size) if args.config else Network.of_size(model, img_size)).eval()
    frames = torch.randn(1, args.frames, 3, height, width, generator=torch.Generator().manual_seed(1))
    ours, frames = ours.to(args.device), frames.to(args.device)
    calls: dict[str, Callable[[], Logits]] = dict(eomt=partial(ours.eomt, frames))
    for length in dict.fromkeys((1, args.frames)):
        calls[f'window {length}'] = partial(ours.windows, frames, length)
    if height == width and describe(ours.state_dict()).family == 'dinov2':
        calls['transformers'] = partial(their_logits, their_network(ours, height).to(args.device), frames)
    expected = calls['window 1']()
    for name, call in calls.items():
        until = 1 if name == 'eomt' else None  # later frames know the earlier ones
        for found, other in zip(call(), expected, strict=True):
            difference = (found[:until] - other[:until]).abs().max() / (other.max() - other.min())
            if difference > TOLERANCE:
                raise RuntimeError(f'{model}, {name}: outputs differ by {float(difference):.1e} of their range')
    return calls


def parse_args() -> tuple[argparse.ArgumentParser, argparse.Namespace]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--models', nargs='+', choices=list(MODELS), default=['s', 'b', 'l'])
    parser.add_argument('--config', help='in place of --models: path or name of a config of VidEoMT')
    parser.add_argument('--size', type=int, nargs=2, default=(640, 640), metavar=('H', 'W'), help='of the frames')
    parser.add_argument('--frames', type=int, default=5, help='of the clip')
    parser.add_argument('--rounds', type=int, default=10)
    parser.add_argument('--threads', type=int, default=2)
    parser.add_argument('--device', default='cpu')
    parser.add_argument('--dtype', choices=['float32', 'float16', 'bfloat16'], default='float32', help='autocast')
    return parser, parser.parse_args()


@torch.no_grad()
def main() -> None:
    parser, args = parse_args()
    torch.set_num_threads(args.threads)
    print(f'forward, {args.dtype}, {args.frames} frames of {args.size[0]} x {args.size[1]}, {args.device}, '
          f'{args.threads} threads; medians and quartiles of {args.rounds} paired ratios\n')  # fmt: skip
    print('| model | side | per frame | against EoMT frame by frame |')
    print('| --- | --- | ---: | ---: |')
    kind = torch.device(args.device).type
    for model in [Path(args.config).stem] if args.config else args.models:
        try:
            calls = sides(model, args)
        except (ValueError, OSError) as error:
            parser.error(str(error))
        with torch.autocast(kind, getattr(torch, args.dtype), enabled=args.dtype != 'float32'):
            seconds = alternate(calls, args.rounds, warmup=1)
        for name, values in seconds.items():
            frame = 1e3 * statistics.median(values) / args.frames
            ratio = paired_ratio(values, seconds['eomt'])
            print(f'| {model} | {name} | {frame:.0f} ms | {ratio.text(1, 3)} |', flush=True)


if __name__ == '__main__':
    main()
