"""Draw the inputs of a model: images after the config's pipeline and padding, with their targets and class names.

Ground truth is checked as in training: a label that is not a class stops the tool with an error. Classes that never
occur are listed at the end.

Training images are drawn with crop, flip, jitter and padding, as the loss sees them. Validation images are drawn as the
model sees them: padded or, in semantic segmentation, as windows. For a video model, each picture shows a clip or the
first frames of a video, with every target's id; a target has the same colour in all frames.

Examples:
    python tools/browse_dataset.py configs/eomt/coco/eomt_dinov2-s_24e_coco-panoptic-640.py --out-dir browsed
    python tools/browse_dataset.py CONFIG --no-augmentation --out-dir browsed    # whole images, as validation sees them
    python tools/browse_dataset.py CONFIG --split val --num 50 --palette distinct --out-dir browsed
"""

import argparse
from collections.abc import Iterator, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

from eomt_mm.options import ToolParser, add_cfg_options, read_options, whole_number
from eomt_mm.visualization import PALETTES


def make_parser() -> argparse.ArgumentParser:
    parser = ToolParser(__doc__)
    parser.add_argument('config', help='config file, or the name of one of the package')
    parser.add_argument('--out-dir', type=Path, required=True, help='folder for the pictures')
    parser.add_argument('--data-root', help='folder of the data set, in place of the one in the config')
    parser.add_argument('--split', choices=['train', 'val', 'test'], default='train')
    parser.add_argument(
        '--num', type=whole_number(1), default=20, help='images; beyond the data set, training draws them anew'
    )
    parser.add_argument('--no-augmentation', action='store_true', help="training images in validation's pipeline")
    parser.add_argument('--seed', type=whole_number(0), default=0, help='of the augmentation')
    parser.add_argument(
        '--palette', choices=PALETTES, default='dataset', help='distinct: safe for colour-blind readers'
    )
    add_cfg_options(parser)
    return parser


if __name__ == '__main__':
    args = make_parser().parse_args()  # before torch is imported, so that -h and errors are fast

# eomt_mm before the hosts: its error names the missing ones.
from eomt_mm.apis.config import load_config  # isort: skip
import cv2
import numpy as np
import torch
from mmdet.structures import TrackDataSample
from mmengine.config import Config
from mmengine.registry import DATASETS, MODELS, init_default_scope
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from eomt_mm.core.geometry import Padding, pad_bottom_right
from eomt_mm.core.targets import check_labels
from eomt_mm.datasets.host_folders import check_host_folders
from eomt_mm.datasets.sampling import SeededDataset
from eomt_mm.engine.query_limit import datasets_in
from eomt_mm.models.predictions import drawn_ground_truth, has_void
from eomt_mm.models.sample_targets import source_of
from eomt_mm.visualization import (
    DrawnSegment,
    distinct_palette,
    draw_segments,
    legend_of,
    side_by_side,
    with_palette,
)
from eomt_mm.visualization.figures import save_picture

VOID = 255  # of label maps
MAX_FRAMES = 8  # of a video in a picture


def build_dataset(cfg: Config, split: str, seed: int, pipeline_of: str | None = None) -> SeededDataset:
    """Build the data set of a split; its samples depend on (seed, position), as in training.

    Args:
        cfg: config of a model.
        split: train, val or test.
        seed: of the augmentation.
        pipeline_of: use the pipeline of this split instead.

    Raises:
        ValueError: the config has no such split, or the data set is empty.
    """
    loader = cfg.get(f'{split}_dataloader')
    if not loader:
        raise ValueError(f'--split {split}: the config has no {split}_dataloader')
    init_default_scope(cfg.default_scope)
    if pipeline_of:
        loader.dataset.pipeline = cfg[f'{pipeline_of}_dataloader'].dataset.pipeline
    dataset = SeededDataset(DATASETS.build(loader.dataset), seed)
    for one in datasets_in(dataset):
        check_host_folders(one)
    if not len(dataset):
        raise ValueError(f'the data set of {split}_dataloader is empty: check its data_root, ann_file, data_prefix')
    return dataset


def fed(
    preprocessor: Any, item: dict[str, Any], masks: list[np.ndarray], training: bool
) -> Iterator[tuple[np.ndarray, list[np.ndarray]]]:
    """Yield the model inputs of an item as images (H, W, 3), uint8 RGB, each with its masks (H, W)."""
    image = item['inputs']
    batch = preprocessor(dict(inputs=[image], data_samples=[item['data_samples']]), training=training)
    resized_size = (int(image.shape[-2]), int(image.shape[-1]))
    geometry = (
        Padding(resized_size, resized_size, preprocessor.img_size) if training else batch['data_samples'][0].geometry
    )
    parts = geometry.apply(resized(masks, resized_size))
    images = (batch['inputs'] * preprocessor.std + preprocessor.mean).round().clamp(0, 255).byte()
    for pixels, part in zip(images, parts, strict=True):
        yield pixels.permute(1, 2, 0).numpy(), list(part.bool().numpy())


def resized(masks: list[np.ndarray], size: tuple[int, int]) -> Tensor:
    """Resize masks, which in validation have the size of the image file, to ``size``: (N, *size), uint8."""
    h, w = size
    small = [cv2.resize(mask.astype(np.uint8), (w, h), interpolation=cv2.INTER_NEAREST) for mask in masks]
    return torch.from_numpy(np.stack(small)) if small else torch.zeros(0, h, w, dtype=torch.uint8)


def pictures(preprocessor: Any, item: dict[str, Any], meta: dict[str, Any], training: bool) -> Iterator[Image.Image]:
    """Draw a picture per model input: the input, and beside it the input with its targets."""
    sample = item['data_samples']
    check_classes(sample, meta)
    truth = drawn_ground_truth(sample, meta)
    segments = truth or []
    for image, masks in fed(preprocessor, item, [segment.mask for segment in segments], training):
        drawn = [DrawnSegment(m, s.name, s.colour) for m, s in zip(masks, segments, strict=True) if m.any()]
        title = 'no ground truth' if truth is None else f'{len(drawn)} target{"" if len(drawn) == 1 else "s"}'
        panels = [
            (f'input, {image.shape[0]} x {image.shape[1]}', draw_segments(image, [])),
            (title, draw_segments(image, drawn, hatch_void=truth is not None and has_void(sample))),
        ]
        yield side_by_side(panels, legend_of((segment.name for segment in drawn), meta))


def labels_of(sample: Any) -> Tensor:
    """Ground-truth labels of an image or a frame, without void; empty if it has no ground truth."""
    if 'gt_sem_seg' in sample and 'gt_instances' not in sample:
        labels = sample.gt_sem_seg.data.unique()
        return labels[labels != VOID].long()
    labels = sample.gt_instances.get('labels') if 'gt_instances' in sample else None
    return torch.zeros(0, dtype=torch.long) if labels is None else torch.as_tensor(labels).long()


def check_classes(sample: Any, meta: dict[str, Any]) -> None:
    """Check that ground-truth labels are classes; raises the same ValueError as training."""
    check_labels(labels_of(sample), len(meta['classes']), source_of(sample))


def absent_classes(seen: set[int], names: Sequence[str], num: int) -> str:
    """Message about classes that occur in none of ``num`` images; '' if every class occurs."""
    absent = [name for label, name in enumerate(names) if label not in seen]
    if not absent:
        return ''
    shown = ', '.join(absent[:10]) + (', ...' if len(absent) > 10 else '')
    return (
        f'{len(absent)} of {len(names)} classes do not occur in these {num} images: {shown}. If they should, check '
        'metainfo.classes and, of label maps, label_ids (masks of 0 and 255 need label_ids=(0, 255): 255 is void)'
    )


def clip_picture(preprocessor: Any, item: dict[str, Any], meta: dict[str, Any]) -> Image.Image:
    """Draw the frames of a clip as the model sees them, and below them the same frames with their targets."""
    frames, samples = item['inputs'][:MAX_FRAMES], item['data_samples'].video_data_samples[:MAX_FRAMES]
    pixels = preprocessor.prepare(frames) * preprocessor.std + preprocessor.mean
    images = pixels.round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()
    ids = sorted({int(i) for sample in samples for i in sample.gt_instances.get('instances_ids', ())})
    colours = dict(zip(ids, cycle(distinct_palette(min(max(len(ids), 1), 24))), strict=False))
    rows: list[list[tuple[str, Image.Image]]] = [[], []]
    for image, sample in zip(images, samples, strict=True):
        check_classes(sample, meta)
        segments = []
        truth = sample.gt_instances
        masks = resized(list(truth.masks.to_ndarray()), (int(frames.shape[-2]), int(frames.shape[-1])))
        for mask, label, id_ in zip(masks, truth.get('labels', ()), truth.get('instances_ids', ()), strict=True):
            padded = pad_bottom_right(mask[None], image.shape[:2])[0].bool().numpy()
            if padded.any():
                segments.append(DrawnSegment(padded, f'{meta["classes"][int(label)]} #{int(id_)}', colours[int(id_)]))
        rows[0].append((f'frame {sample.frame_id}', draw_segments(image, [])))
        rows[1].append((f'{len(segments)} target{"" if len(segments) == 1 else "s"}', draw_segments(image, segments)))
    upper, lower = (side_by_side(row) for row in rows)
    picture = Image.new('RGB', (upper.width, upper.height + lower.height), 'white')
    picture.paste(upper, (0, 0))
    picture.paste(lower, (0, upper.height))
    return picture


def main(args: argparse.Namespace) -> None:
    cfg = load_config(args.config, read_options(args.cfg_options), args.data_root)
    dataset = build_dataset(cfg, args.split, args.seed, 'val' if args.no_augmentation else None)
    preprocessor = MODELS.build(cfg.model.data_preprocessor)
    meta = with_palette(dataset.metainfo, args.palette)
    training = args.split == 'train' and not args.no_augmentation
    num = args.num if training else min(args.num, len(dataset))
    written = 0
    seen: set[int] = set()
    for position in tqdm(range(num), desc='images', unit=''):
        item = dataset[position, position % len(dataset)]
        sample = item['data_samples']
        is_clip = isinstance(sample, TrackDataSample)
        seen |= {int(label) for one in (sample if is_clip else [sample]) for label in labels_of(one)}
        stem = f'video_{sample[0].video_id}' if is_clip else Path(sample.img_path).stem
        drawn = [clip_picture(preprocessor, item, meta)] if is_clip else pictures(preprocessor, item, meta, training)
        for window, picture in enumerate(drawn):
            save_picture(picture, args.out_dir / f'{position:05d}_{stem}{f"_{window}" if window else ""}.png')
            written += 1
    print(f'wrote {written} pictures to {args.out_dir}')
    if seen and (text := absent_classes(seen, meta['classes'], num)):  # test sets have no ground truth
        print(text)


if __name__ == '__main__':
    main(args)
