"""Generate images and targets for a comparison: the same for every side, in the hosts' formats."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import HorizontalBoxes
from mmdet.structures.mask import BitmapMasks
from mmengine.structures import InstanceData, PixelData
from mmseg.structures import SegDataSample
from torch import Tensor

from benchmark.configs import Size
from eomt_mm.fileio.writing import written_aside
from eomt_mm.synthetic.shapes import draw_scene

NUM_THINGS, NUM_STUFF = 12, 5  # roughly as in COCO panoptic: 10 to 11 segments per image, a few of them stuff


def write_image(path: Path, size: Size) -> Path:
    """Write a drawn scene of ``size`` as a JPEG."""
    image = draw_scene(np.random.default_rng(0), *size).image
    with written_aside(path) as aside:
        cv2.imwrite(str(aside), image[..., ::-1])
    return path


def segments(
    rng: np.random.Generator, size: Size, num_things: int, num_stuff: int, count: int = NUM_THINGS
) -> tuple[np.ndarray, np.ndarray]:
    """Generate labels (N,) and bool masks (N, H, W) of one image: rectangles are things, stripes are stuff.

    Args:
        rng: draws positions and labels.
        size: height and width.
        num_things: number of thing classes, which come first; 0: no rectangles.
        num_stuff: number of stuff classes; up to ``NUM_STUFF`` of them get a horizontal stripe each.
        count: number of rectangles.
    """
    count = count if num_things else 0

    def inside(length: int) -> np.ndarray:  # (count, length), a stretch of each row
        starts = rng.integers(0, length // 2, (count, 1))
        ends = starts + rng.integers(length // 16, length // 3, (count, 1))
        return (np.arange(length) >= starts) & (np.arange(length) < ends)

    rectangles = inside(size[0])[:, :, None] & inside(size[1])[:, None, :]
    labels = rng.integers(0, num_things, count) if count else np.zeros(0, np.int64)
    stuff = num_things + rng.permutation(num_stuff)[:NUM_STUFF]
    stripe = np.arange(size[0]) * len(stuff) // size[0]  # of each row
    stripes = np.broadcast_to((stripe == np.arange(len(stuff))[:, None])[..., None], (len(stuff), *size))
    return np.concatenate([labels, stuff]), np.concatenate([rectangles, stripes])


def random_targets(batch: int, count: int, size: int, num_classes: int) -> list[dict[str, Tensor]]:
    """Generate a criterion's targets: per image, labels (``count``,) and bool masks (``count``, S, S) of rectangles."""
    rng = np.random.default_rng(0)
    drawn = [segments(rng, (size, size), num_classes, 0, count) for _ in range(batch)]
    return [dict(labels=torch.from_numpy(labels), masks=torch.from_numpy(masks)) for labels, masks in drawn]


def make_batch(task: str, size: Size, batch: int, num_things: int, num_stuff: int) -> dict[str, Any]:
    """Generate images with targets, as a loader passes them to a data preprocessor.

    Args:
        task: 'semantic', 'instance', 'panoptic' or 'detection'.
        size: height and width of the images.
        batch: number of images.
        num_things, num_stuff: numbers of classes of the model; all classes of a semantic model are stuff.

    Returns:
        ``inputs``: uint8 (3, H, W) each; ``data_samples``: :func:`segments`, things with masks and boxes, stuff as a
        label map.
    """
    rng = np.random.default_rng(0)
    images = [torch.from_numpy(rng.integers(0, 256, (3, *size), dtype=np.uint8)) for _ in range(batch)]
    samples = []
    for sample in blank_samples(task, size, batch):
        labels, masks = segments(rng, size, num_things, num_stuff)
        is_thing = labels < num_things
        label_map = torch.from_numpy((labels[~is_thing, None, None] * masks[~is_thing]).sum(0)[None])
        if task == 'semantic':
            sample.gt_sem_seg = PixelData(data=label_map)
        else:
            sample.gt_instances = instances(labels[is_thing], masks[is_thing])
            sample.gt_instances.bboxes = HorizontalBoxes.from_instance_masks(sample.gt_instances.masks).tensor
            if num_stuff:
                sample.gt_sem_seg = PixelData(sem_seg=label_map)
        samples.append(sample)
    return dict(inputs=images, data_samples=samples)


def instances(labels: np.ndarray, masks: np.ndarray) -> InstanceData:
    """Pack labels and masks as mmdet's instances."""
    bitmaps = BitmapMasks(masks.astype(np.uint8), *masks.shape[1:])
    return InstanceData(labels=torch.from_numpy(labels), masks=bitmaps)


def blank_samples(task: str, size: Size, batch: int) -> list[Any]:
    """Make samples for images that already have the network's input size; mmdet's heads read sizes from them."""
    kind = SegDataSample if task == 'semantic' else DetDataSample
    return [kind(metainfo=metainfo_of(size)) for _ in range(batch)]


def metainfo_of(size: Size) -> dict[str, Any]:
    return dict(ori_shape=size, img_shape=size, pad_shape=size, batch_input_shape=size, scale_factor=(1.0, 1.0))
