"""Data set mappers: from detectron2's data set dicts to the model's inputs, with the published augmentation."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.structures import Instances
from torch import Tensor

from eomt_mm.core.augment import (
    change_colours,
    check_aspect,
    check_crop,
    check_jitter,
    crop_image,
    draw_colour_changes,
    draw_crop_with_targets,
    draw_flip,
    fitting_size,
    resize_image,
)
from eomt_mm.core.geometry import Size, as_size
from eomt_mm.detectron2.ground_truth import TASKS, GroundTruth, Item, read_ground_truth, read_image

JITTER = dict(brightness=32 / 255, contrast=0.5, saturation=0.5, hue=0.05)
# Transforms of the mm configs that load and pack: the data set dicts and the mapper's task take their place.
LOADING = (
    'LoadImage', 'LoadImageFromFile', 'LoadSemanticMap', 'LoadInstances', 'LoadPanopticSegments', 'LoadADE20KSegments',
    'LoadCityscapesSegments', 'PackSegInputs', 'PackDetInputs', 'PackSegments',
)  # fmt: skip
# Transforms of the mm configs that change pixels: their arguments to those of the mapper.
CHANGING: dict[str, dict[str, str]] = {
    'ColorJitter': {},
    'RandomFlip': {'prob': 'flip_prob'},
    'ScaleJitterCrop': {'img_size': 'img_size', 'scale_range': 'scale_range', 'max_tries': 'max_tries'},
    'ResizeToInput': {'img_size': 'img_size', 'max_aspect': 'max_aspect'},
}


class EoMTMapper:
    """Read an image and its ground truth; in training, change colours, flip and crop as the mm pipelines do.

    All random numbers come from numpy's global generator, in the order of the mm pipelines: the same seed gives the
    same tensors.

    Returns a shallow copy of the data set dict with

    - ``image``: (3, h, w), uint8, RGB; in training of ``img_size``, black outside the image; in evaluation resized, but
      neither padded nor cut into windows;
    - ``height``, ``width``: of the image file;
    - ``instances``, in training: detectron2's ``Instances`` of ``img_size`` with ``gt_classes`` (N,), int64, and
      ``gt_masks`` (N, H, W), bool. Semantic segmentation has one per class. Void and crowds are in no mask.

    Args:
        task: 'panoptic', 'instance' or 'semantic'.
        img_size: side or (height, width) of the model's input in pixels.
        num_classes: number of classes; other labels are an error.
        is_train: augment, and add the ground truth.
        scale_range: bounds of the random scale; (0.5, 2.0) is published for semantic segmentation.
        flip_prob: probability of a horizontal flip; None: never flip, and draw no random number.
        jitter: arguments of `draw_colour_changes`; None: do not change colours.
        max_tries: number of crops that are drawn until one has a target.
        max_aspect: largest ratio of an image's sides in semantic evaluation.

    Raises:
        ValueError: an argument is invalid.
    """

    def __init__(
        self,
        task: str,
        img_size: int | Sequence[int],
        num_classes: int,
        is_train: bool = True,
        scale_range: tuple[float, float] = (0.1, 2.0),
        flip_prob: float | None = 0.5,
        jitter: Mapping[str, float] | None = None,
        max_tries: int = 20,
        max_aspect: float = 20,
    ) -> None:
        if task not in TASKS:
            raise ValueError(f'task={task!r}: one of {TASKS}')
        if num_classes < 1:
            raise ValueError(f'num_classes={num_classes}: at least 1')
        check_crop((scale_range[0], scale_range[1]), max_tries)
        if flip_prob is not None and not 0 <= flip_prob <= 1:
            raise ValueError(f'flip_prob={flip_prob}: a probability in [0, 1]')
        self.task = task
        self.img_size: Size = as_size(img_size)
        self.num_classes = num_classes
        self.is_train = is_train
        self.scale_range = (scale_range[0], scale_range[1])
        self.flip_prob = flip_prob
        self.jitter = None if jitter is None else check_jitter(**{**JITTER, **jitter})
        self.max_tries = max_tries
        self.max_aspect = max_aspect

    def __call__(self, item: Item) -> Item:
        """Map a data set dict; see the class. Errors of files: see `read_ground_truth`."""
        image = read_image(item)
        found = dict(item, height=image.shape[0], width=image.shape[1])
        if self.is_train:
            found['image'], found['instances'] = self._train(image, item)
            for key in ('annotations', 'segments_info'):
                found.pop(key, None)
        else:
            found['image'] = _as_tensor(self._resized(image, item))
        return found

    def _train(self, image: np.ndarray, item: Item) -> tuple[Tensor, Instances]:
        size = image.shape[0], image.shape[1]
        ground_truth: GroundTruth = read_ground_truth(item, self.task, size)
        if self.jitter is not None:
            changes = draw_colour_changes(**self.jitter)
            if changes:
                image = _as_image(change_colours(_as_tensor(image), changes))
        if self.flip_prob is not None and draw_flip(self.flip_prob):
            image, ground_truth = np.ascontiguousarray(image[:, ::-1]), ground_truth.flip()
        has_none = not ground_truth.has_target()
        scaled, corner, cut = draw_crop_with_targets(
            size,
            self.img_size,
            self.scale_range,
            self.max_tries,
            ground_truth.crop,
            lambda cut: has_none or cut.has_target(),
        )
        target = cut.target(self.num_classes, _source(item))
        instances = Instances(self.img_size, gt_classes=target['labels'], gt_masks=target['masks'])
        return _as_tensor(crop_image(image, scaled, corner, self.img_size)), instances

    def _resized(self, image: np.ndarray, item: Item) -> np.ndarray:
        size = image.shape[0], image.shape[1]
        covers = self.task == 'semantic'
        if covers:
            check_aspect(size, self.img_size, self.max_aspect, item['file_name'])
        return resize_image(image, fitting_size(size, self.img_size, inside=not covers))


def mapper_of(
    task: str, pipeline: Sequence[Mapping[str, Any]], num_classes: int, is_train: bool, **changes: Any
) -> EoMTMapper:
    """Build the mapper that does what a pipeline of the mm configs does.

    Args:
        task, num_classes, is_train: see `EoMTMapper`.
        pipeline: ``train_pipeline`` or ``test_pipeline`` of the config.
        **changes: arguments of `EoMTMapper` that replace those of the pipeline, such as ``img_size``.

    Raises:
        ValueError: the pipeline has a transform, or an argument of one, that the mapper does not have.
    """
    arguments: dict[str, Any] = dict(flip_prob=None)
    for transform in pipeline:
        given = dict(transform)
        name = str(given.pop('type')).rpartition('.')[2]
        if name in LOADING:
            continue
        if name not in CHANGING:
            raise ValueError(
                f'pipeline: detectron2 has no {name}; {", ".join(CHANGING)} work there: leave it out, or train with mm'
            )
        if name == 'ColorJitter':
            arguments['jitter'] = given
            continue
        if name == 'ResizeToInput' and given.pop('fit') != ('cover' if task == 'semantic' else 'inside'):
            raise ValueError(f"pipeline: ResizeToInput has fit='cover' for semantic, 'inside' for other tasks: {task}")
        names = CHANGING[name]
        unknown = sorted(set(given) - set(names))
        if unknown:
            raise ValueError(f'pipeline: {name} has {unknown}, which only mm reads: leave them out for detectron2')
        arguments.update((names[key], value) for key, value in given.items())
    arguments.update(changes)
    if 'img_size' not in arguments:
        raise ValueError(f'pipeline: img_size is in neither ScaleJitterCrop nor ResizeToInput of {list(pipeline)}')
    return EoMTMapper(task, num_classes=num_classes, is_train=is_train, **arguments)


def _source(item: Item) -> str:
    """Image file of a dict and its label map, for messages."""
    return ', label map '.join(filter(None, (item['file_name'], item.get('sem_seg_file_name'))))


def _as_tensor(image: np.ndarray) -> Tensor:
    """Convert an image (h, w, 3), BGR, to (3, h, w), RGB."""
    return torch.from_numpy(np.ascontiguousarray(image[..., ::-1].transpose(2, 0, 1)))


def _as_image(tensor: Tensor) -> np.ndarray:
    """Invert `_as_tensor`."""
    return np.ascontiguousarray(tensor.numpy().transpose(1, 2, 0)[..., ::-1])
