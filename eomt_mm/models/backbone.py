"""The ViT as configs name it: pretrained weights load where mmengine initialises the model."""

from typing import Any

from eomt_mm.checkpoints.pretrained import check_weights_exist, load_pretrained
from eomt_mm.core.backbone import PlainViT
from eomt_mm.registry import MODELS


@MODELS.register_module()
class TimmViT(PlainViT):
    """A plain ViT of timm with its pretrained weights.

    Args:
        model_name, img_size, patch_size: see :class:`~eomt_mm.core.backbone.PlainViT`.
        pretrained: load timm's weights for ``model_name``. Happens in :meth:`init_weights`, that is, at the start of
            training only; building never touches the network.
        weights: file or folder of timm, Meta or Hugging Face (DINOv2 with registers, DINOv3), or ``hf://owner/name``
            or an ``http(s)://`` address, instead of timm's download; positions and patch kernels are resampled. Loaded
            like ``pretrained``.
        **kwargs: further arguments of :class:`~eomt_mm.core.backbone.PlainViT`.

    Raises:
        FileNotFoundError: where ``weights`` do not exist.
    """

    def __init__(
        self,
        model_name: str,
        img_size: int = 640,
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
        """Loads the pretrained weights, resampled to this patch and image size.

        mmengine calls this once, before training and before ``load_from`` or a resume. timm's own ``init_weights`` is
        never called: it would draw the weights anew.
        """
        if self.pretrained or self.weights:
            load_pretrained(self, self.weights)
