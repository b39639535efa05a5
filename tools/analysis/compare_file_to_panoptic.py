"""Times the way from an image file to its panoptic map beside transformers' processor, model and post-processing.

Both models have the same random weights (ours, exported), in evaluation, with fused attention and masks off, as in
released models; a fixed number of queries is made certain of a class each, and the others of "no object". Ours is the
config's own test pipeline and ``test_step``; theirs is ``PIL.Image.open``, ``EomtImageProcessor``,
``EomtForUniversalSegmentation`` and ``post_process_panoptic_segmentation``. Before anything is timed the two maps are
compared.

Sides take turns, in reversed order every second round. A ratio is the median of the paired ratios, with quartiles.

Example:
    python tools/analysis/compare_file_to_panoptic.py configs/eomt/coco/eomt_dinov2-s_24e_coco-panoptic-640.py
"""

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1]))  # isort: skip
from eomt_mm.apis import init_model, load_config  # isort: skip
import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from mmengine.registry import DefaultScope
from PIL import Image
from torch import Tensor
from transformers import EomtForUniversalSegmentation, EomtImageProcessor

from benchmark.configs import test_pipeline
from benchmark.harness import Call, Spread, alternate, paired_ratio
from benchmark.inputs import write_image
from benchmark.models import keep_queries
from eomt_mm.checkpoints.exporting import export_huggingface


def our_call(cfg: Config, model: Any, path: Path) -> Call:
    """From the file to the map of segments (H, W), 0 where there is none."""
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        pipeline = Compose([step for step in test_pipeline(cfg) if 'eomt_mm.Load' not in step['type']])
    num_classes = model.panoptic_head.num_classes

    def call() -> Tensor:
        (sample,) = model.test_step(pseudo_collate([pipeline(dict(img_path=str(path), img_id=0))]))
        codes = sample.pred_panoptic_seg.sem_seg[0]  # label + 1000 * id
        return torch.where(codes == num_classes, 0, codes)

    return call


def their_call(theirs: Any, processor: Any, path: Path, stuff: list[int]) -> Call:
    """From the file to the map of segments (H, W), -1 or 0 where there is none."""

    def call() -> Tensor:
        image = Image.open(path).convert('RGB')
        outputs = theirs(**processor(images=image, return_tensors='pt'))
        sizes = [image.size[::-1]]
        (found,) = processor.post_process_panoptic_segmentation(outputs, target_sizes=sizes, stuff_classes=stuff)
        return found['segmentation']

    return call


def agreement(ours: Tensor, theirs: Tensor) -> float:
    """Share of pixels whose segments are each other's counterparts."""
    pairs = torch.stack([ours.flatten().long(), theirs.flatten().long().clamp(min=0)])
    pairs, counts = pairs.unique(dim=1, return_counts=True)
    taken: set[tuple[int, int]] = set()
    agreeing = 0
    for k in counts.argsort(descending=True).tolist():
        mine, other = pairs[:, k].tolist()
        if (0, mine) not in taken and (1, other) not in taken:
            taken |= {(0, mine), (1, other)}
            agreeing += int(counts[k])
    return agreeing / ours.numel()


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='a panoptic DINOv2 config')
    parser.add_argument('--image', type=Path, help='default: one of 480 x 640 is drawn')
    parser.add_argument('--kept', type=int, default=25, help='queries that are certain of a class')
    parser.add_argument('--rounds', type=int, default=10)
    parser.add_argument('--threads', type=int, default=2)
    return parser.parse_args()


@torch.no_grad()
def main() -> None:
    args = parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    cfg = load_config(args.config)
    model: Any = init_model(cfg)
    head = model.panoptic_head
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = args.image or write_image(folder / 'image.jpg', (480, 640))
        num_heads = model.backbone.vit.blocks[0].attn.num_heads
        export_huggingface(model.state_dict(), folder / 'model', img_size=cfg.img_size, num_heads=num_heads)
        theirs = EomtForUniversalSegmentation.from_pretrained(folder / 'model', attn_implementation='sdpa').eval()
        processor = EomtImageProcessor.from_pretrained(folder / 'model')
        keep_queries(head, args.kept)
        theirs.attn_mask_probs.zero_()  # its way to switch masks off
        theirs.num_classes = head.num_classes
        keep_queries(theirs, args.kept)
        stuff = list(range(head.num_things_classes, head.num_classes))
        calls = dict(eomt_mm=our_call(cfg, model, path), transformers=their_call(theirs, processor, path, stuff))
        ours, other = (call() for call in calls.values())
        print(f'{len(np.unique(ours))} values in the map, equal in {agreement(ours, other):.2%} of the pixels')
        seconds = alternate(calls, args.rounds, warmup=1)
    print(f'{Path(args.config).stem}, {args.threads} threads, {args.rounds} rounds: image file to panoptic map')
    for name, values in seconds.items():
        ratio = paired_ratio(values, seconds['eomt_mm'])
        print(
            f'  {name:13} {1e3 * Spread.of(values).median:7.0f} ms, '
            f'{ratio.median:.2f} ({ratio.low:.2f} to {ratio.high:.2f}) of our time'
        )


if __name__ == '__main__':
    main()
