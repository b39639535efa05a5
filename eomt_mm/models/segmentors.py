"""EoMT as an mmseg segmentor and an mmdet detector: thin adapters that connect backbone, head and host."""

from typing import Any

import torch
from mmdet.models.detectors import BaseDetector
from mmdet.structures import DetDataSample
from mmengine.model import BaseModel
from mmseg.models.segmentors import BaseSegmentor
from mmseg.structures import SegDataSample
from torch import Tensor

from eomt_mm.checkpoints.class_names import placeholders
from eomt_mm.core.backbone import PlainViT
from eomt_mm.core.geometry import Padding, Windows
from eomt_mm.core.network import Predictions, eomt_forward
from eomt_mm.core.postprocess import semantic_scores
from eomt_mm.models.heads import EoMTDetHead, EoMTSegHead
from eomt_mm.models.preprocessors import complete_samples, state_input_shape
from eomt_mm.recipes.classes import default_palette
from eomt_mm.registry import MODELS

Config = dict[str, Any]


def build_backbone_and_head(backbone: Config, head: Config, data_preprocessor: Any) -> tuple[PlainViT, Any]:
    """Build backbone and head; the head gets width, depth and patch size from the backbone, not from the config.

    Raises:
        ValueError: the preprocessor's ``img_size`` is not a multiple of the patch size.
    """
    vit: PlainViT = MODELS.build(backbone)
    from_backbone = dict(embed_dim=vit.embed_dim, depth=vit.depth, patch_size=vit.patch_size)
    img_size = getattr(data_preprocessor, 'img_size', None)
    if img_size is not None and any(side % vit.patch_size for side in img_size):
        raise ValueError(f'data_preprocessor.img_size={img_size}: both sides must be multiples of {vit.patch_size}')
    return vit, MODELS.build(head, default_args=from_backbone)


class NormalTensors(BaseModel):
    """Model whose weights are normal tensors, even if it is built or moved under ``torch.inference_mode``.

    Inference tensors cannot be trained, loaded into, or resampled (positions) outside that mode. Subclasses decorate
    their ``__init__``.
    """

    def _apply(self, *args: Any, **kwargs: Any) -> Any:
        with torch.inference_mode(False):
            return super()._apply(*args, **kwargs)


@MODELS.register_module()
class EoMTSegmentor(NormalTensors, BaseSegmentor):
    """EoMT for semantic segmentation in mmseg.

    Args:
        backbone: config of a :class:`~eomt_mm.models.backbone.TimmViT`.
        decode_head: config of an :class:`~eomt_mm.models.heads.EoMTSegHead`.
        data_preprocessor: config of an :class:`~eomt_mm.models.preprocessors.EoMTSegDataPreprocessor`.
        train_cfg, test_cfg: unused; mmseg's tools pass them.
        init_cfg: config of mmengine's initialisation.
        pretrained: None; mmseg's ``init_model`` passes it.

    Raises:
        ValueError: ``pretrained`` is given, or see :func:`build_backbone_and_head`.
    """

    decode_head: EoMTSegHead

    @torch.inference_mode(False)
    def __init__(
        self,
        backbone: Config,
        decode_head: Config,
        data_preprocessor: Config | None = None,
        train_cfg: Config | None = None,
        test_cfg: Config | None = None,
        init_cfg: Config | None = None,
        pretrained: None = None,
    ) -> None:
        if pretrained is not None:
            raise ValueError(f"pretrained='{pretrained}': pretrained backbones belong to model.backbone.weights")
        super().__init__(data_preprocessor, init_cfg)
        self.backbone, self.decode_head = build_backbone_and_head(backbone, decode_head, self.data_preprocessor)
        self.num_classes = self.decode_head.num_classes
        self.out_channels = self.decode_head.out_channels
        self.align_corners = self.decode_head.align_corners
        names = placeholders(self.num_classes)  # until a checkpoint or config states others
        self.dataset_meta = dict(classes=names, palette=default_palette(self.num_classes))

    def extract_feat(self, inputs: Tensor) -> Predictions:
        """Run the network on (B, 3, H, W); see :func:`~eomt_mm.core.network.eomt_forward`."""
        return eomt_forward(self.backbone, self.decode_head, inputs)

    def _forward(self, inputs: Tensor, data_samples: list[SegDataSample] | None = None) -> Predictions:
        return self.extract_feat(inputs)

    def encode_decode(self, inputs: Tensor, batch_img_metas: list[Config]) -> Tensor:
        """Compute class scores (B, K, H, W) at the size of the inputs."""
        class_logits, mask_logits = self.extract_feat(inputs)
        return semantic_scores(class_logits[-1], mask_logits[-1], (inputs.shape[-2], inputs.shape[-1]))

    def loss(self, inputs: Tensor, data_samples: list[SegDataSample]) -> dict[str, Tensor]:
        return self.decode_head.loss(self.extract_feat(inputs), state_input_shape(inputs, data_samples))

    def predict(self, inputs: Tensor, data_samples: list[SegDataSample] | None = None) -> list[SegDataSample]:
        """Return samples with ``pred_sem_seg``.

        Inputs and samples are outputs of the preprocessor, or completed by
        :func:`~eomt_mm.models.preprocessors.complete_samples`.
        """
        samples = complete_samples(inputs, data_samples, SegDataSample, Windows)
        with torch.no_grad():  # scores are summed in place
            return self.decode_head.predict_inputs(self.extract_feat, inputs, samples)


@MODELS.register_module()
class EoMTDetector(NormalTensors, BaseDetector):
    """EoMT for panoptic or instance segmentation in mmdet.

    Args:
        backbone: config of a :class:`~eomt_mm.models.backbone.TimmViT`.
        panoptic_head: config of an :class:`~eomt_mm.models.heads.EoMTDetHead`.
        data_preprocessor: config of an :class:`~eomt_mm.models.preprocessors.EoMTDetDataPreprocessor`.
        train_cfg, test_cfg: unused; mmdet's tools pass them.
        init_cfg: config of mmengine's initialisation.
    """

    panoptic_head: EoMTDetHead

    @torch.inference_mode(False)
    def __init__(
        self,
        backbone: Config,
        panoptic_head: Config,
        data_preprocessor: Config | None = None,
        train_cfg: Config | None = None,
        test_cfg: Config | None = None,
        init_cfg: Config | None = None,
    ) -> None:
        super().__init__(data_preprocessor, init_cfg)
        self.backbone, self.panoptic_head = build_backbone_and_head(backbone, panoptic_head, self.data_preprocessor)

    def extract_feat(self, batch_inputs: Tensor) -> Predictions:
        """Run the network on (B, 3, H, W); see :func:`~eomt_mm.core.network.eomt_forward`."""
        return eomt_forward(self.backbone, self.panoptic_head, batch_inputs)

    def _forward(self, batch_inputs: Tensor, batch_data_samples: list[DetDataSample] | None = None) -> Predictions:
        return self.extract_feat(batch_inputs)

    def loss(self, batch_inputs: Tensor, batch_data_samples: list[DetDataSample]) -> dict[str, Tensor]:
        samples = state_input_shape(batch_inputs, batch_data_samples)
        return self.panoptic_head.loss(self.extract_feat(batch_inputs), samples)

    def predict(
        self, batch_inputs: Tensor, batch_data_samples: list[DetDataSample] | None = None, rescale: bool = True
    ) -> list[DetDataSample]:
        """Return samples with ``pred_panoptic_seg`` or ``pred_instances``.

        Inputs and samples are outputs of the preprocessor, or completed by
        :func:`~eomt_mm.models.preprocessors.complete_samples`. Results always have the original image size;
        ``rescale`` is an argument of mmdet's interface and has no effect.
        """
        samples = complete_samples(batch_inputs, batch_data_samples, DetDataSample, Padding)
        return self.panoptic_head.predict_inputs(self.extract_feat, batch_inputs, samples)
