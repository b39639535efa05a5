"""Time EoMT and the detectron2 project of Mask2Former on the same images, in turns.

    python projects/detectron2/compare_mask2former.py --mask2former DIR --size 640 640
    python projects/detectron2/compare_mask2former.py --mask2former DIR --config-file CONFIG --images photos/*.jpg

Both models have random weights and segment the same resized images, in memory, to panoptic maps of the images' own
sizes. The first --kept queries of both predict a class with certainty, the others "no object", so that both have
segments to merge. Ratios are medians over rounds, with quartiles in brackets.

DIR is a clone of https://github.com/facebookresearch/Mask2Former. Nothing has to be compiled.
CONFIG and the KEY=VALUE options at the end: as of train_net.py.
"""

import argparse
import importlib
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

try:
    import eomt_mm.detectron2  # noqa: F401
except ImportError as missing:  # detectron2 is missing or too old: one line says what to do
    sys.exit(f'compare_mask2former.py: {missing}')

import numpy as np
import torch
from detectron2.config import CfgNode, get_cfg, instantiate
from detectron2.modeling import build_model
from omegaconf import DictConfig
from torch import nn

from eomt_mm.core.geometry import as_size
from eomt_mm.detectron2 import apply_overrides, lazy_config, split_files, split_options
from eomt_mm.options import whole_number
from eomt_mm.synthetic.shapes import draw_scene

sys.path.append(str(Path(__file__).resolve().parents[2] / 'tools'))
from benchmark.harness import Measured, alternate
from benchmark.kept import keep_queries

DEFAULT = 'eomt_dinov2-s_24e_coco-panoptic-640'
PEER = 'configs/coco/panoptic-segmentation/maskformer2_R50_bs16_50ep.yaml'
DEFORMABLE = 'MultiScaleDeformableAttention'


@dataclass(frozen=True)
class Side:
    """A model of the comparison."""

    name: str
    model: nn.Module

    def run(self, items: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Segment images one by one."""
        with torch.no_grad():
            return [self.model([item])[0] for item in items]


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    number = whole_number(1)
    parser.add_argument('--mask2former', required=True, type=Path, metavar='DIR', help='clone of Mask2Former')
    parser.add_argument(
        '--mask2former-config', default=PEER, metavar='YAML', help=f'file in the clone; default: {PEER}'
    )
    parser.add_argument('--config-file', default=DEFAULT, help=f'name or path of a config; default: {DEFAULT}')
    parser.add_argument('--size', nargs=2, type=number, metavar=('H', 'W'), help="input size; default: the config's")
    parser.add_argument('--images', nargs='+', default=[], metavar='FILE', help='images; default: a generated one')
    parser.add_argument('--rounds', type=number, default=10, help='timed rounds; default: 10')
    parser.add_argument('--kept', type=whole_number(0), default=25, help='queries that are kept; default: 25')
    parser.add_argument('--device', help='such as cpu or cuda; default: a GPU if there is one')
    parser.add_argument('opts', nargs=argparse.REMAINDER, help='KEY=VALUE, such as model.head.num_queries=100')
    args = parser.parse_args()
    args.images, options = split_files(args.images)  # --images takes all that follows it
    args.opts = [*options, *args.opts]
    return args


def stand_in_for_compiled_parts() -> None:
    """Make ``import mask2former`` succeed without its compiled attention and without detectron2's compiled part.

    The first module is empty: calls fail, and Mask2Former computes its attention in PyTorch. The second lends its
    evaluator, which is not used here, the class of pycocotools. What is compiled is used.
    """
    from pycocotools.cocoeval import COCOeval

    contents = {DEFORMABLE: {}, 'detectron2.evaluation.fast_eval_api': dict(COCOeval_opt=COCOeval)}
    for name, content in contents.items():
        try:
            importlib.import_module(name)
        except ImportError:
            sys.modules[name] = ModuleType(name)
            vars(sys.modules[name]).update(content)


def mask2former_config(folder: Path, file: str, device: str) -> CfgNode:
    """Import Mask2Former from a clone of it, and read a config for panoptic results alone.

    Raises:
        FileNotFoundError: the folder does not hold Mask2Former, or not the config.
        ValueError: the config is not of panoptic segmentation.
    """
    if not (folder / 'mask2former' / '__init__.py').is_file():
        clone = 'git clone https://github.com/facebookresearch/Mask2Former'
        raise FileNotFoundError(
            f'--mask2former {folder}: no mask2former/__init__.py is there; give the folder of {clone}'
        )
    if not (folder / file).is_file():
        raise FileNotFoundError(f'--mask2former-config {file}: no such file in {folder}')
    stand_in_for_compiled_parts()
    sys.path.append(str(folder.resolve()))
    cfg = get_cfg()
    importlib.import_module('detectron2.projects.deeplab').add_deeplab_config(cfg)
    importlib.import_module('mask2former').add_maskformer2_config(cfg)
    is_panoptic = False
    with suppress(KeyError):  # a key that only other models have, such as those for videos
        cfg.merge_from_file(str(folder / file))
        is_panoptic = cfg.MODEL.META_ARCHITECTURE == 'MaskFormer' and cfg.MODEL.MASK_FORMER.TEST.PANOPTIC_ON
    if not is_panoptic:
        raise ValueError(f'--mask2former-config {file}: no panoptic config of Mask2Former for images, such as {PEER}')
    cfg.MODEL.DEVICE = device
    cfg.MODEL.MASK_FORMER.TEST.SEMANTIC_ON = cfg.MODEL.MASK_FORMER.TEST.INSTANCE_ON = False
    return cfg


def our_config(args: argparse.Namespace) -> DictConfig:
    """Read our config with the size and the options of the command line.

    Raises:
        ValueError: the config is not of panoptic segmentation, or an option is invalid.
    """
    options, overrides = split_options(args.opts)
    if args.size:
        if 'img_size' in options:
            raise ValueError('--size and img_size: give one of them')
        options['img_size'] = tuple(args.size)
    cfg = apply_overrides(lazy_config(args.config_file, options), overrides)
    if cfg.model.task != 'panoptic':
        raise ValueError(f'--config-file {args.config_file}: its task is {cfg.model.task}; give a panoptic config')
    if args.device:
        cfg.train.device = args.device
    try:
        torch.empty(0, device=cfg.train.device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f'--device {cfg.train.device}: {reason}; give cpu or a device that is there') from error
    return cfg


def inputs(images: Sequence[Path], cfg: DictConfig) -> list[dict[str, Any]]:
    """Read the images as the config's test data, without padding; without images, draw one of the input's size."""
    if images:
        mapper = instantiate(cfg.dataloader.test.mapper)
        return [dict(mapper(dict(file_name=str(image)))) for image in images]
    height, width = as_size(cfg.model.img_size)
    drawn = draw_scene(np.random.default_rng(0), height, width).image
    return [dict(image=torch.from_numpy(drawn.transpose(2, 0, 1).copy()), height=height, width=width)]


def check_maps(side: Side, items: Sequence[dict[str, Any]]) -> int:
    """Return the number of segments of all images.

    Raises:
        ValueError: a result is no panoptic map of its image's size.
    """
    count = 0
    for item, result in zip(items, side.run(items), strict=True):
        segment_map, segments = result.get('panoptic_seg', (torch.empty(0), []))
        found, wanted = tuple(segment_map.shape), (item['height'], item['width'])
        if found != wanted:
            raise ValueError(f'{side.name}: the panoptic map has the shape {found}, the image {wanted}')
        count += len(segments)
    return count


def table(sides: Sequence[Side], items: Sequence[dict[str, Any]], rounds: int) -> str:
    """Check the sides, time them in turns, and return a Markdown table."""
    counts = [check_maps(side, items) for side in sides]

    def call(side: Side) -> Callable[[], Any]:
        return lambda: side.run(items)

    seconds = alternate({side.name: call(side) for side in sides}, rounds)
    measured = [Measured(side.name, seconds[side.name]) for side in sides]
    lines = ['| model | parameters | segments | ms per image | time / EoMT |', '|---|---|---|---|---|']
    for side, count, result in zip(sides, counts, measured, strict=True):
        millions = sum(parameter.numel() for parameter in side.model.parameters()) / 1e6
        ratio = result.time_over(measured[0]).text(1, 2)
        times = result.time.text(1000 / len(items), 1)
        lines.append(f'| {side.name} | {millions:.1f} M | {count / len(items):g} per image | {times} | {ratio} |')
    return '\n'.join(lines)


def main(args: argparse.Namespace) -> None:
    cfg = our_config(args)
    device = cfg.train.device
    torch.manual_seed(0)
    items, ours = inputs(args.images, cfg), instantiate(cfg.model).to(device).eval()
    peer = build_model(mask2former_config(args.mask2former, args.mask2former_config, device)).eval()
    keep_queries(ours.head, args.kept)
    keep_queries(peer.sem_seg_head, args.kept)
    compiled = device.startswith('cuda') and 'ms_deform_attn_forward' in vars(sys.modules[DEFORMABLE])
    attention = 'compiled attention' if compiled else 'attention in PyTorch'
    name = Path(args.mask2former_config).stem
    sides = [Side(f'EoMT {Path(args.config_file).stem}', ours), Side(f'Mask2Former {name}, {attention}', peer)]
    print(table(sides, items, args.rounds))
    height, width = as_size(cfg.model.img_size)
    place = (
        torch.cuda.get_device_name(device) if device.startswith('cuda') else f'CPU, {torch.get_num_threads()} threads'
    )
    print(f'\nimages: {len(items)}, at {height} x {width}; {args.rounds} rounds, torch {torch.__version__}, {place}')


if __name__ == '__main__':
    try:
        main(parse_args())
    except (FileNotFoundError, ValueError) as error:
        sys.exit(f'compare_mask2former.py: {error}')
