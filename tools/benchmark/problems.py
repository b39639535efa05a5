"""What the sides of a subject get: made from the options, and the same in every process."""

import json
import logging
import tempfile
from argparse import Namespace
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from mmdet.datasets import CocoDataset
from PIL import Image
from pycocotools import mask as mask_api
from torch import Tensor

from benchmark.configs import is_video, side_config, task_of
from benchmark.harness import Call
from benchmark.inputs import write_image
from benchmark.models import class_counts, is_ours
from eomt_mm.core.geometry import Padding
from eomt_mm.synthetic.shapes import SHAPES_METAINFO

THINGS, STUFF = 80, 53  # COCO
CLASSES = CocoDataset.METAINFO['classes']  # things
PER_IMAGE, PERIOD = 7, 16  # annotations; images after which results repeat


def network_problem(args: Namespace) -> Namespace:
    """A config, normalised images (B, 3, S, S), and targets: labels (N,) and bool masks (N, S, S) of rectangles."""
    cfg = eomt_config(args.config, (args.size, args.size), args.cfg_options)
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(args.batch, 3, args.size, args.size, generator=generator)
    num_classes = sum(class_counts(cfg))
    count = vars(args).get('targets', 0)
    targets = [random_targets(count, args.size, num_classes, generator) for _ in range(args.batch)]
    return Namespace(cfg=cfg, images=images, targets=targets)


def eomt_config(name: str, *changes: Any) -> Any:
    """Config of a side; see :func:`~benchmark.configs.side_config`.

    Raises:
        ValueError: it is none of EoMT's on images.
    """
    cfg = side_config(name, *changes)
    if not is_ours(cfg) or is_video(cfg):
        raise ValueError(f'config {name} is none of EoMT on images; tools/benchmark.py compares any configs')
    return cfg


def random_targets(count: int, size: int, num_classes: int, generator: torch.Generator) -> dict[str, Tensor]:
    place = torch.arange(size)

    def inside() -> Tensor:  # (N, S), a stretch of each row
        start, length = torch.rand(2, count, 1, generator=generator)
        return (place >= 0.6 * size * start) & (place < size * (0.6 * start + 0.05 + 0.3 * length))

    labels = torch.randint(num_classes, (count,), generator=generator)
    return dict(labels=labels, masks=inside()[:, :, None] & inside()[:, None, :])


def criterion_problem(args: Namespace) -> Namespace:
    """Class logits (B, Q, K + 1) and mask logits (B, Q, S/4, S/4) per layer, and targets."""
    generator = torch.Generator().manual_seed(0)
    shape, side = (args.batch, args.queries), args.size // 4
    num_classes = THINGS + STUFF
    classes = [torch.randn(*shape, num_classes + 1, generator=generator) for _ in range(args.layers)]
    masks = [3 * torch.randn(*shape, side, side, generator=generator) for _ in range(args.layers)]
    return Namespace(
        class_logits=[x.requires_grad_() for x in classes],
        mask_logits=[x.requires_grad_() for x in masks],
        targets=[random_targets(args.targets, args.size, num_classes, generator) for _ in range(args.batch)],
        num_classes=num_classes,
        num_points=args.points,
        backward=not args.forward_only,
    )


def losses_call(problem: Namespace, losses: Callable[[], Mapping[str, Tensor]]) -> Call:
    """A call of ``losses()``, which gives tensors of shape () or (1,) by name; its result: these sorted, gradients."""
    logits = [*problem.class_logits, *problem.mask_logits]

    def call() -> list[Tensor]:
        for one in logits:
            one.grad = None  # gradients start anew, as after an optimiser's step
        found = losses()
        values = torch.cat([found[name].flatten() for name in sorted(found)])
        if not problem.backward:
            return [values.detach()]
        values.sum().backward()
        return [values.detach(), *(one.grad for one in logits if one.grad is not None)]

    return call


def postprocess_problem(args: Namespace) -> Namespace:
    """Class logits (1, Q, K + 1) of which ``args.kept`` pass 0.8, mask logits (1, Q, S/4, S/4) of blurred discs."""
    generator = torch.Generator().manual_seed(0)
    num_stuff = STUFF if args.task == 'panoptic' else 0
    num_classes, queries = THINGS + num_stuff, args.queries
    class_logits = torch.randn(queries, num_classes + 1, generator=generator)
    best = torch.full((queries,), num_classes)
    chosen = torch.randperm(queries, generator=generator)[: args.kept]
    best[chosen] = torch.randint(num_classes, (len(chosen),), generator=generator)
    class_logits[torch.arange(queries), best] += 12
    place = torch.linspace(0, 1, args.size // 4)
    y, x, radius = torch.rand(3, queries, 1, 1, generator=generator)
    distance = ((place[:, None] - y) ** 2 + (place - x) ** 2).sqrt()
    height, width = (round(side * args.size / max(args.ori_size)) for side in args.ori_size)
    return Namespace(
        task=args.task,
        class_logits=class_logits[None],
        mask_logits=40 * (0.03 + 0.07 * radius - distance)[None],
        geometry=Padding(tuple(args.ori_size), (height, width), (args.size, args.size)),
        num_things=THINGS,
        num_stuff=num_stuff,
        max_per_image=args.max_per_image,
    )


def file_problem(args: Namespace) -> Namespace:
    """A panoptic config, an image file, and the folder that holds it."""
    cfg = eomt_config(args.config, None, args.cfg_options)
    if task_of(cfg) != 'panoptic':
        raise ValueError(f'config {args.config}: its task is {task_of(cfg)}, not panoptic')
    folder = tempfile.TemporaryDirectory()  # lives as long as the problem
    path = args.image or write_image(Path(folder.name) / 'image.jpg', tuple(args.ori_size))
    return Namespace(cfg=cfg, path=path, kept=args.kept, folder=folder)


def pq_problem(args: Namespace) -> Namespace:
    folder = tempfile.TemporaryDirectory()  # lives as long as the problem
    write_panoptic_results(Path(folder.name), args.num_images, tuple(args.ori_size), args.num_segments)
    return Namespace(path=Path(folder.name), folder=folder, in_memory=args.in_memory, python=args.panopticapi_python)


def random_ids(rng: np.random.Generator, size: tuple[int, int], num_segments: int) -> np.ndarray:
    """(H, W) int32 in [0, num_segments - 1]: regions with curved borders."""
    noise = [rng.random((7, 9)).astype(np.float32) for _ in range(num_segments)]
    fields = [cv2.resize(grid, size[::-1], interpolation=cv2.INTER_CUBIC) for grid in noise]
    return np.argmax(fields, axis=0).astype(np.int32)


def predicted_ids(rng: np.random.Generator, ids: np.ndarray, num_segments: int) -> np.ndarray:
    """The ground truth moved by up to a fortieth of its height, some of its segments merged."""
    reach = ids.shape[0] // 40
    moved = np.roll(ids, tuple(rng.integers(-reach, reach + 1, 2)), axis=(0, 1))
    table = np.arange(num_segments)
    table[rng.integers(0, num_segments, 3)] = rng.integers(0, num_segments, 3)
    return table[moved]


def write_panoptic_results(folder: Path, num_images: int, size: tuple[int, int], num_segments: int) -> None:
    """Ground truth ``gt.json`` and ``gt/``, predictions ``pred.json`` and ``pred/``; segment 0 is void."""
    rng = np.random.default_rng(0)
    annotations: dict[str, list[dict[str, Any]]] = dict(gt=[], pred=[])
    for side in annotations:
        (folder / side).mkdir()
    for image in range(num_images):
        ids = random_ids(rng, size, num_segments)
        categories = rng.integers(1, THINGS + STUFF + 1, num_segments)
        crowds = (rng.random(num_segments) < 0.1) & (categories <= THINGS)
        wrong = rng.random(num_segments) < 0.1
        for side, numbers in (('gt', ids), ('pred', predicted_ids(rng, ids, num_segments))):
            codes = np.append(0, rng.choice(1 << 24, num_segments - 1, replace=False))
            colours = codes[numbers, None].astype('<i4').view(np.uint8)[..., :3]
            Image.fromarray(colours).save(folder / side / f'{image}.png')  # as large as COCO's own
            segments = [
                dict(id=int(codes[k]), category_id=int(categories[k]), iscrowd=int(crowds[k]), area=int(area))
                for k, area in enumerate(np.bincount(numbers.ravel()))
                if k > 0 and area > 0
            ]
            annotations[side].append(dict(image_id=image, file_name=f'{image}.png', segments_info=segments))
            categories = np.where(wrong, rng.integers(1, THINGS + STUFF + 1, num_segments), categories)
    common = dict(
        images=[dict(id=k, file_name=f'{k}.jpg', height=size[0], width=size[1]) for k in range(num_images)],
        categories=[dict(id=k, name=f'{k}', isthing=int(k <= THINGS)) for k in range(1, THINGS + STUFF + 1)],
    )
    for side, listed in annotations.items():
        (folder / f'{side}.json').write_text(json.dumps(dict(common, annotations=listed)))


class InstanceResults:
    """Random masks as ground truth of COCO's classes, and shifted ones as results; they repeat every few images.

    Attributes:
        num_images, size: of the data set; height and width.
        predictions: of the images, in turn; the first ones of each are of the ground truth.
        file: COCO json of the ground truth.
    """

    def __init__(self, args: Namespace) -> None:
        rng = np.random.default_rng(0)
        size = self.size = (args.ori_size[0], args.ori_size[1])
        self.num_images = args.num_images
        noise = [rng.random(rng.integers(4, 12, 2)).astype(np.float32) for _ in range(60)]
        pool = np.stack([cv2.resize(grid, size[::-1], interpolation=cv2.INTER_CUBIC) > 0.7 for grid in noise])
        chosen = np.stack([rng.integers(0, n, (PERIOD, PER_IMAGE)) for n in (len(pool), len(CLASSES))], axis=2)
        self.predictions = [self._predictions(pool, truths, args.num_predictions, rng) for truths in chosen]
        self._folder = tempfile.TemporaryDirectory()
        self.file = Path(self._folder.name) / 'gt.json'
        self.file.write_text(json.dumps(self._annotations(pool, chosen)))

    def _predictions(
        self, pool: np.ndarray, truths: np.ndarray, count: int, rng: np.random.Generator
    ) -> dict[str, Tensor]:
        masks, labels = rng.integers(0, len(pool), count), rng.integers(0, len(CLASSES), count)
        masks[:PER_IMAGE], labels[:PER_IMAGE] = truths[:count].T
        moved = np.roll(pool[masks], tuple(rng.integers(-9, 10, 2)), axis=(1, 2))
        scores = torch.from_numpy(rng.random(count).astype(np.float32))
        return dict(
            masks=torch.from_numpy(moved), labels=torch.from_numpy(labels), bboxes=torch.zeros(count, 4), scores=scores
        )

    def _annotations(self, pool: np.ndarray, chosen: np.ndarray) -> dict[str, Any]:
        height, width = self.size
        outlines = mask_api.encode(np.asfortranarray(pool.transpose(1, 2, 0), np.uint8))
        annotations = [
            dict(
                id=PER_IMAGE * image + k + 1, image_id=image, category_id=int(label) + 1, iscrowd=0,
                segmentation=dict(outlines[mask], counts=outlines[mask]['counts'].decode()),
                area=float(pool[mask].sum()), bbox=[0, 0, width, height],
            )
            for image in range(self.num_images)
            for k, (mask, label) in enumerate(chosen[image % PERIOD])
        ]  # fmt: skip
        images = [dict(id=k, height=height, width=width, file_name=f'{k}.jpg') for k in range(self.num_images)]
        categories = [dict(id=k + 1, name=name) for k, name in enumerate(CLASSES)]
        return dict(images=images, annotations=annotations, categories=categories)

    def score(self, make: Callable[[str], Any]) -> float:
        """mAP of a new metric of the file that is given all results."""
        logging.disable(logging.INFO)  # and what pycocotools prints
        try:
            with redirect_stdout(None):
                metric = make(str(self.file))
                metric.dataset_meta = dict(classes=CLASSES)
                for k in range(self.num_images):
                    found = dict(self.predictions[k % PERIOD])
                    found['scores'] = found['scores'] * (1 - k / 1e5)  # no two are equal
                    metric.process(None, [dict(img_id=k, ori_shape=self.size, pred_instances=found)])
                return float(metric.evaluate(self.num_images)['coco/segm_mAP'])
        finally:
            logging.disable(logging.NOTSET)


def pipeline_problem(args: Namespace) -> Namespace:
    """Files of COCO panoptic, of which both sides make samples."""
    cfg = side_config(args.config, (args.size, args.size), data_root=args.data_root)
    files = dict(
        data_root=cfg.data_root,
        ann_file=f'annotations/panoptic_{args.split}.json',
        data_prefix=dict(img=f'{args.split}/', seg=f'annotations/panoptic_{args.split}/'),
        filter_cfg=dict(filter_empty_gt=True),
        metainfo=SHAPES_METAINFO if args.shapes else None,
    )
    return Namespace(files=files, size=args.size, pipeline=cfg.train_dataloader.dataset.pipeline)


def one_by_one(dataset: Any) -> Call:
    """The next sample with every call."""
    indices = iter(range(10**9))
    return lambda: dataset[next(indices) % len(dataset)]
