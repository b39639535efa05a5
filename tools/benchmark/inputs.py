"""Images and targets for a comparison, generated: the same for every side, in the forms that the hosts read."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.structures import InstanceData, PixelData
from mmseg.structures import SegDataSample

from benchmark.configs import Size
from eomt_mm.fileio.writing import written_aside
from eomt_mm.synthetic.shapes import draw_scene

NUM_THINGS, NUM_STUFF = 12, 5  # about what an image of COCO panoptic has: 10 to 11 segments, a few of them stuff


def write_image(path: Path, size: Size) -> Path:
    """Writes a drawn scene of ``size`` as a JPEG."""
    image = draw_scene(np.random.default_rng(0), *size).image
    with written_aside(path) as aside:
        cv2.imwrite(str(aside), image[..., ::-1])
    return path


def make_batch(task: str, size: Size, batch: int, num_things: int, num_stuff: int) -> dict[str, Any]:
    """Images with targets, as a loader gives them to a data preprocessor.

    Args:
        task: 'semantic', 'instance', 'panoptic' or 'detection'.
        size: height and width of the images.
        batch: number of images.
        num_things, num_stuff: classes of the model; all classes of a semantic one are stuff.

    Returns:
        ``inputs``: uint8 (3, H, W) each; ``data_samples``: rectangles as things, with masks and boxes, and stripes as
        stuff or, for semantic segmentation, as the label map.
    """
    rng = np.random.default_rng(0)
    images = [torch.from_numpy(rng.integers(0, 256, (3, *size), dtype=np.uint8)) for _ in range(batch)]
    if task == 'semantic':
        samples = [_seg_sample(rng, size, num_stuff) for _ in images]
    else:
        samples = [_det_sample(rng, size, num_things, num_stuff) for _ in images]
    return dict(inputs=images, data_samples=samples)


def _seg_sample(rng: np.random.Generator, size: Size, num_classes: int) -> SegDataSample:
    sample = SegDataSample(metainfo=metainfo_of(size))
    sample.gt_sem_seg = PixelData(data=stripes(rng, size, np.arange(num_classes)))
    return sample


def _det_sample(rng: np.random.Generator, size: Size, num_things: int, num_stuff: int) -> DetDataSample:
    masks, boxes = rectangles(rng, size)
    sample = DetDataSample(metainfo=metainfo_of(size))
    sample.gt_instances = InstanceData(
        labels=torch.from_numpy(rng.integers(0, num_things, NUM_THINGS)),
        masks=BitmapMasks(masks, *size),
        bboxes=torch.from_numpy(boxes).float(),
    )
    if num_stuff:
        stuff = num_things + np.arange(num_stuff)
        sample.gt_sem_seg = PixelData(sem_seg=stripes(rng, size, stuff))
    return sample


def rectangles(rng: np.random.Generator, size: Size) -> tuple[np.ndarray, np.ndarray]:
    """Masks (``NUM_THINGS``, H, W), 0 and 1, and boxes (``NUM_THINGS``, 4) x1, y1, x2, y2."""
    (h, w), masks = size, np.zeros((NUM_THINGS, *size), np.uint8)
    tops, lefts = rng.integers(0, h // 2, NUM_THINGS), rng.integers(0, w // 2, NUM_THINGS)
    bottoms = tops + rng.integers(h // 16, h // 3, NUM_THINGS)
    rights = lefts + rng.integers(w // 16, w // 3, NUM_THINGS)
    for mask, top, bottom, left, right in zip(masks, tops, bottoms, lefts, rights, strict=True):
        mask[top:bottom, left:right] = 1
    return masks, np.stack([lefts, tops, rights, bottoms], axis=1)


def stripes(rng: np.random.Generator, size: Size, labels: np.ndarray) -> torch.Tensor:
    """Label map (1, H, W) of horizontal stripes of some of the ``labels``."""
    chosen = rng.permutation(labels)[:NUM_STUFF]
    rows = np.repeat(chosen, -(-size[0] // len(chosen)))[: size[0]]
    return torch.from_numpy(rows).view(1, -1, 1).expand(1, *size).contiguous()


def metainfo_of(size: Size) -> dict[str, Any]:
    return dict(ori_shape=size, img_shape=size, pad_shape=size, batch_input_shape=size, scale_factor=(1.0, 1.0))


def blank_samples(task: str, size: Size, batch: int) -> list[Any]:
    """Samples of images that already are the network's input; heads of mmdet ask them for sizes."""
    kind = SegDataSample if task == 'semantic' else DetDataSample
    return [kind(metainfo=metainfo_of(size)) for _ in range(batch)]
