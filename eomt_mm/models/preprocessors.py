"""Data preprocessors for the hosts with EoMT's geometry: pad uint8 images with black, then normalise.

mmdet and mmseg normalise before padding, so their padding is not black.
"""

from collections.abc import Sequence
from typing import Any

import torch
from mmdet.models.data_preprocessors import DetDataPreprocessor
from mmdet.structures import DetDataSample
from mmengine.model import BaseDataPreprocessor
from mmseg.models.data_preprocessor import SegDataPreProcessor
from mmseg.structures import SegDataSample
from torch import Tensor

from eomt_mm.core.geometry import Padding, Size, Windows, pad_bottom_right
from eomt_mm.registry import MODELS

IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)


def as_size(img_size: int | Sequence[int]) -> Size:
    """Convert an int or (height, width) to (height, width)."""
    sides = (img_size, img_size) if isinstance(img_size, int) else tuple(img_size)
    if len(sides) != 2 or min(sides) < 1:
        raise ValueError(f'img_size={img_size}: must be an int or (height, width), at least 1 pixel')
    return int(sides[0]), int(sides[1])


class GeometryMixin(BaseDataPreprocessor):
    """Build input batches from images, and record how to map predictions back to the images.

    In training, every image is padded to ``img_size`` (the pipeline's crop already has that size). In evaluation,
    ``geometry_class`` pads or cuts the images, and each sample's ``geometry`` maps predictions back to its image.

    Args:
        img_size: side or (height, width) of the input in pixels.
        mean, std: mean and standard deviation per RGB channel, in [0, 255].
        bgr_to_rgb: swap the channels, because mmcv loads BGR.
    """

    geometry_class: type[Padding] | type[Windows]
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

    def whole_inputs(self, inputs: Tensor) -> list[DetDataSample] | list[SegDataSample]:
        """Create samples for inputs (B, 3, H, W) that bypassed this preprocessor; each is a whole image."""
        size: Size = (int(inputs.shape[-2]), int(inputs.shape[-1]))
        geometry = self.geometry_class(size, size, size)
        return [self.sample_class(metainfo=dict(geometry=geometry, batch_input_shape=size)) for _ in inputs]


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
