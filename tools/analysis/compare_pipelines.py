"""Times loading, augmentation and cropping of COCO panoptic samples beside mmdet's pipeline for Mask2Former.

Both read the same files with the same scales (0.1 to 2) and crop; samples come out ready for the model, EoMT's with one
id map, Mask2Former's with one mask per segment. They take turns image by image, in one process without workers. mmdet
wants a function of panopticapi (ids from colours); where that is missing, one of three lines stands in for it.

Example:
    python tools/analysis/compare_pipelines.py --data-root data/coco --split val2017
"""

import argparse
import copy
import importlib.util
import statistics
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

from eomt_mm.apis.config import load_config  # isort: skip
import numpy as np
from mmengine.registry import DATASETS, DefaultScope

CONFIG = Path(__file__).resolve().parents[2] / 'configs/eomt/coco/eomt_dinov2-l_12e_coco-panoptic-640.py'


def mask2former_pipeline(size: int) -> list[dict[str, Any]]:
    """mmdet's training pipeline for Mask2Former (large-scale jitter), at ``size``."""
    return [
        dict(type='LoadImageFromFile'),
        dict(type='LoadPanopticAnnotations', with_bbox=True, with_mask=True, with_seg=True),
        dict(type='RandomFlip', prob=0.5),
        dict(type='RandomResize', scale=(size, size), ratio_range=(0.1, 2.0), keep_ratio=True),
        dict(type='RandomCrop', crop_size=(size, size), crop_type='absolute', recompute_bbox=True,
             allow_negative_crop=True),
        dict(type='PackDetInputs'),
    ]  # fmt: skip


def provide_rgb2id() -> None:
    """The function of panopticapi that mmdet's loading calls, where the package is missing."""
    if importlib.util.find_spec('panopticapi') is None:
        package, utils = ModuleType('panopticapi'), ModuleType('panopticapi.utils')
        utils.rgb2id = lambda rgb: rgb.astype(np.int32) @ np.array([1, 256, 65536], np.int32)  # type: ignore[attr-defined]
        package.utils = utils  # type: ignore[attr-defined]
        sys.modules.update({'panopticapi': package, 'panopticapi.utils': utils})


def build(args: argparse.Namespace) -> tuple[Any, Any]:
    """The same images as our data set and as mmdet's."""
    cfg = load_config(CONFIG, {'img_size': args.size}, args.data_root)
    common = dict(
        data_root=cfg.data_root,
        ann_file=f'annotations/panoptic_{args.split}.json',
        data_prefix=dict(img=f'{args.split}/', seg=f'annotations/panoptic_{args.split}/'),
        filter_cfg=dict(filter_empty_gt=True),
        metainfo=args.metainfo,
    )
    with DefaultScope.overwrite_default_scope('mmdet'):
        ours = DATASETS.build(dict(common, type='eomt_mm.CocoPanoptic', pipeline=cfg.train_dataloader.dataset.pipeline))
        theirs = DATASETS.build(
            dict(copy.deepcopy(common), type='CocoPanopticDataset', pipeline=mask2former_pipeline(args.size))
        )
    return ours, theirs


def seconds(dataset: Any, index: int) -> float:
    start = time.perf_counter()
    dataset[index]
    return time.perf_counter() - start


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data-root', default='data/coco', help='folder in the layout of COCO')
    parser.add_argument('--split', default='train2017')
    parser.add_argument('--size', type=int, default=640, help='side of the crop')
    parser.add_argument('--rounds', type=int, default=100, help='samples per side')
    parser.add_argument('--shapes', action='store_true', help='classes of generated data, in place of those of COCO')
    args = parser.parse_args()
    args.metainfo = None
    if args.shapes:
        from eomt_mm.synthetic.shapes import SHAPES_METAINFO

        args.metainfo = SHAPES_METAINFO
    return args


def main() -> None:
    args = parse_args()
    provide_rgb2id()
    ours, theirs = build(args)
    np.random.seed(0)
    times = [(seconds(theirs, k % len(theirs)), seconds(ours, k % len(ours))) for k in range(-2, args.rounds)][
        2:
    ]  # the first ones fill caches
    medians = [statistics.median(column) for column in zip(*times, strict=True)]
    totals = [sum(column) for column in zip(*times, strict=True)]
    print(f'{args.rounds} samples of {args.split} at {args.size} px, milliseconds per sample (median):')
    print(f'  mmdet, Mask2Former  {1e3 * medians[0]:7.1f}\n  eomt_mm             {1e3 * medians[1]:7.1f}')
    print(f'  ours takes {medians[1] / medians[0]:.2f} of the median, {totals[1] / totals[0]:.2f} of the total time')


if __name__ == '__main__':
    main()
