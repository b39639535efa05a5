"""Data preprocessors for the hosts with EoMT's geometry: pad uint8 images with black, then normalise.

mmdet and mmseg normalise before padding, so their padding is not black.
"""

from collections.abc import Sequence
from typing import Any, TypeAlias, TypeVar

import torch
from mmdet.models.data_preprocessors import DetDataPreprocessor
from mmdet.structures import DetDataSample
from mmengine.model import BaseDataPreprocessor
from mmseg.models.data_preprocessor import SegDataPreProcessor
from mmseg.structures import SegDataSample
from torch import Tensor

from eomt_mm.core.backbone import IMAGENET_MEAN, IMAGENET_STD
from eomt_mm.core.geometry import Padding, Size, Windows, as_size, pad_bottom_right
from eomt_mm.registry import MODELS

GeometryClass: TypeAlias = type[Padding] | type[Windows]
SampleT = TypeVar('SampleT', DetDataSample, SegDataSample)


class GeometryMixin(BaseDataPreprocessor):
    """Build input batches from images, and record how to map predictions back to the images.

    In training, every image is padded to ``img_size`` (the pipeline's crop already has that size). In evaluation,
    ``geometry_class`` pads or cuts the images, and each sample's ``geometry`` maps predictions back to its image.

    Args:
        img_size: side or (height, width) of the input in pixels.
        mean, std: mean and standard deviation per RGB channel, in [0, 255].
        bgr_to_rgb: swap the channels, because mmcv loads BGR.
    """

    geometry_class: GeometryClass
    sample_class: type[DetDataSample] | type[SegDataSample]
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        img_size: int | Sequence[int],
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        bgr_to_rgb: bool = True,
    ) -> None:
        super().__init__(mean=mean, std=std)  # the host's preprocessor registers both as buffers
        self.img_size = as_size(img_size)
        self.bgr_to_rgb = bgr_to_rgb

    def forward(self, data: dict[str, Any], training: bool = False) -> dict[str, Any]:
        """Convert collated data to model input.

        Args:
            data: ``inputs``: list of uint8 (3, h, w); ``data_samples``: list of the host's samples, or absent.
            training: True: only pad; False: apply ``geometry_class`` and record the geometry.

        Returns:
            ``inputs``: float (N, 3, *img_size), normalised; ``data_samples``: samples with ``batch_input_shape`` and,
            in evaluation, ``geometry`` in their metainfo. N exceeds the number of samples if an image has several
            windows.
        """
        data = self.cast_data(data)
        images = [image[[2, 1, 0]] if self.bgr_to_rgb else image for image in data['inputs']]
        samples = data.get('data_samples') or [self.sample_class() for _ in images]
        if training:
            batch = torch.stack([pad_bottom_right(image, self.img_size) for image in images])
        else:
            geometries = []
            for image, sample in zip(images, samples, strict=True):
                resized_size = (int(image.shape[-2]), int(image.shape[-1]))
                ori_size = tuple(sample.get('ori_shape', resized_size)[:2])
                geometries.append(self.geometry_class(ori_size, resized_size, self.img_size))
                sample.set_metainfo(dict(geometry=geometries[-1]))
            batch = torch.cat([geometry.apply(image) for geometry, image in zip(geometries, images, strict=True)])
        for sample in samples:
            sample.set_metainfo(dict(batch_input_shape=self.img_size, pad_shape=self.img_size))
        batch = batch.to(torch.promote_types(torch.float32, self.mean.dtype))  # float64 for a model in float64
        return dict(inputs=batch.sub_(self.mean).div_(self.std), data_samples=samples)


def state_input_shape(inputs: Tensor, samples: list[SampleT]) -> list[SampleT]:
    """Add ``batch_input_shape``, the size of inputs (B, 3, H, W), to samples that lack it, and return the samples."""
    for sample in samples:
        if 'batch_input_shape' not in sample:
            sample.set_metainfo(dict(batch_input_shape=(int(inputs.shape[-2]), int(inputs.shape[-1]))))
    return samples


def complete_samples(
    inputs: Tensor, samples: list[SampleT] | None, sample_class: type[SampleT], geometry_class: GeometryClass
) -> list[SampleT]:
    """Add what this module's preprocessors record to samples of inputs that bypassed them.

    Such an input holds one image at its top left, of the size ``img_shape`` (default: the whole input), and results
    have the size ``ori_shape`` (default: ``img_shape``).

    Args:
        inputs: (B, 3, H, W), normalised.
        samples: samples, of which those that have ``batch_input_shape`` or ``geometry`` keep it; None: new ones.
        sample_class: class of new samples.
        geometry_class: class of the geometry that is added.

    Raises:
        ValueError: an image is larger than its input, or the numbers of samples and inputs differ.
    """
    size: Size = (int(inputs.shape[-2]), int(inputs.shape[-1]))
    samples = state_input_shape(inputs, [sample_class() for _ in inputs] if samples is None else samples)
    for sample in samples:
        if 'geometry' in sample:
            continue
        if len(samples) != len(inputs):
            raise ValueError(f'{len(samples)} samples without geometry for {len(inputs)} inputs: give one per input')
        height, width = sample.get('img_shape', size)[:2]
        if height > size[0] or width > size[1]:
            raise ValueError(
                f'img_shape={(height, width)} of a sample is larger than its input of {size[0]} x {size[1]} pixels: '
                f"correct it, or let the model's data_preprocessor prepare the input"
            )
        ori_size = tuple(sample.get('ori_shape', (height, width))[:2])
        sample.set_metainfo(dict(geometry=geometry_class(ori_size, (height, width), size)))
    return samples


@MODELS.register_module()
class EoMTDetDataPreprocessor(GeometryMixin, DetDataPreprocessor):
    """mmdet's preprocessor for instance and panoptic EoMT: resized images are padded to ``img_size``."""

    geometry_class = Padding
    sample_class = DetDataSample


@MODELS.register_module()
class EoMTSegDataPreprocessor(GeometryMixin, SegDataPreProcessor):
    """mmseg's preprocessor for semantic EoMT: images are cut into windows of ``img_size``."""

    geometry_class = Windows
    sample_class = SegDataSample
