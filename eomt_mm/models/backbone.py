"""ViT for configs, whose pretrained weights load when mmengine initialises the model."""

from collections.abc import Sequence
from typing import Any

from eomt_mm.checkpoints.pretrained import check_weights_exist, load_pretrained
from eomt_mm.core.backbone import PlainViT
from eomt_mm.registry import MODELS


@MODELS.register_module()
class TimmViT(PlainViT):
    """A plain timm ViT with pretrained weights.

    Args:
        model_name, img_size, patch_size: see :class:`~eomt_mm.core.backbone.PlainViT`.
        pretrained: load timm's weights for ``model_name``. They load in :meth:`init_weights`, that is, only at the
            start of training; building the model never accesses the network.
        weights: file or folder of timm, Meta or Hugging Face (DINOv2 with registers, DINOv3), ``hf://owner/name`` or
            an ``http(s)://`` address, to load instead of timm's download. Position embeddings and patch kernels are
            resampled. Loads at the same time as ``pretrained``.
        **kwargs: further arguments of :class:`~eomt_mm.core.backbone.PlainViT`.

    Raises:
        FileNotFoundError: ``weights`` is a path that does not exist.
    """

    def __init__(
        self,
        model_name: str,
        img_size: int | Sequence[int] = 640,
        patch_size: int | None = 16,
        pretrained: bool = False,
        weights: str | None = None,
        **kwargs: Any,
    ) -> None:
        if weights is not None:
            check_weights_exist(weights)
        super().__init__(model_name, img_size, patch_size, **kwargs)
        self.pretrained = pretrained
        self.weights = weights

    def init_weights(self) -> None:
        """Load the pretrained weights, resampled to this patch and image size.

        mmengine calls this once at the start of training, before ``load_from`` or a resume. timm's own ``init_weights``
        is never called, because it would reinitialise the weights at random.
        """
        if self.pretrained or self.weights:
            load_pretrained(self, self.weights)
