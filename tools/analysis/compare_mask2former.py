"""Times one training step and one prediction of EoMT beside mmdet's stock Mask2Former, alternating in one run.

Both are built from their own configs with random weights and see the same image and the same targets, on this
machine's default device. A training step is preprocessing, forward, loss, backward and AdamW; a prediction goes from
the image to the panoptic map at the image's size. Mask2Former's deformable attention runs in its PyTorch form where
mmcv has no compiled ops.

Example:
    python tools/analysis/compare_mask2former.py configs/eomt/coco/eomt_dinov2-s_24e_coco-panoptic-640.py
"""

import argparse
import copy
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from eomt_mm.apis.config import load_config  # isort: skip
import mmdet
import numpy as np
import torch
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.registry import MODELS, DefaultScope
from mmengine.structures import InstanceData, PixelData
from torch import nn

STOCK = Path(mmdet.__file__).parent / '.mim/configs/mask2former/mask2former_r50_8xb2-lsj-50e_coco-panoptic.py'
NUM_THINGS, NUM_STUFF = 80, 53


def build_mask2former(size: int) -> nn.Module:
    """Stock Mask2Former R50 for COCO panoptic; its panoptic result only, padded to ``size`` in training."""
    cfg = Config.fromfile(STOCK)
    for augment in cfg.model.data_preprocessor.batch_augments:
        augment.size = (size, size)
    cfg.model.test_cfg.instance_on = False
    with DefaultScope.overwrite_default_scope('mmdet'):
        import mmdet.models  # noqa: F401  registers

        return MODELS.build(cfg.model)


def make_batch(size: int, num_things: int = 12, num_stuff: int = 5, seed: int = 0) -> dict[str, Any]:
    """One ``size`` x ``size`` image with rectangles as things and stripes as stuff, in mmdet's form."""
    rng = np.random.default_rng(seed)
    masks = np.zeros((num_things, size, size), np.uint8)
    for mask in masks:
        (top, left), (h, w) = rng.integers(0, size // 2, 2), rng.integers(size // 16, size // 3, 2)
        mask[top : top + h, left : left + w] = 1
    stuff = np.repeat(NUM_THINGS + rng.permutation(NUM_STUFF)[:num_stuff], -(-size // num_stuff))[:size]
    sample = DetDataSample(metainfo=dict(ori_shape=(size, size), img_shape=(size, size), scale_factor=(1.0, 1.0)))
    sample.gt_instances = InstanceData(
        labels=torch.from_numpy(rng.integers(0, NUM_THINGS, num_things)), masks=BitmapMasks(masks, size, size)
    )
    stripes = torch.from_numpy(stuff).view(1, -1, 1).expand(1, size, size).contiguous()
    sample.gt_sem_seg = PixelData(sem_seg=stripes)
    image = torch.from_numpy(rng.integers(0, 256, (3, size, size), dtype=np.uint8))
    return dict(inputs=[image], data_samples=[sample])


def training_step(model: Any, batch: dict[str, Any], optimizer: torch.optim.Optimizer) -> None:
    model.train()
    data = model.data_preprocessor(copy.deepcopy(batch), True)
    loss, _ = model.parse_losses(model(**data, mode='loss'))
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()


def prediction(model: Any, batch: dict[str, Any]) -> None:
    model.eval()
    with torch.no_grad():
        model.test_step(copy.deepcopy(batch))


def alternate(runs: dict[str, Callable[[], None]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each run, one after the other, ``repeats`` times after one round to warm up."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for i in range(repeats + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if i:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('configs', nargs='+', help='panoptic EoMT configs')
    parser.add_argument('--repeats', type=int, default=5, help='timed rounds')
    args = parser.parse_args()

    cfgs = {Path(path).stem: load_config(path) for path in args.configs}
    sizes = {cfg.img_size for cfg in cfgs.values()}
    if len(sizes) > 1:
        parser.error(f'configs of different img_size {sorted(sizes)}: compare at one size')
    size = sizes.pop()
    models = {'Mask2Former R50': build_mask2former(size)}
    models |= {name: MODELS.build(cfg.model) for name, cfg in cfgs.items()}
    device = get_device()
    for model in models.values():
        model.to(device)
    batch = make_batch(size)
    optimizers = {name: torch.optim.AdamW(model.parameters(), lr=1e-6) for name, model in models.items()}
    stages: dict[str, dict[str, Callable[[], None]]] = {
        'prediction': {name: partial(prediction, model, batch) for name, model in models.items()},
        'training step': {
            name: partial(training_step, model, batch, optimizers[name]) for name, model in models.items()
        },
    }
    print(f'{size} x {size}, batch 1, float32, {device}, {torch.get_num_threads()} threads, {args.repeats} rounds')
    for stage, runs in stages.items():
        seconds = alternate(runs, args.repeats)
        reference = seconds['Mask2Former R50']
        for name, values in seconds.items():
            ratios = [r / v for r, v in zip(reference, values, strict=True)]
            print(
                f'{stage:14} {name:44} median {statistics.median(values):7.3f} s   '
                f'{statistics.median(ratios):5.2f} x the speed of Mask2Former R50'
            )


if __name__ == '__main__':
    main()
