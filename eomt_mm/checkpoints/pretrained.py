"""Load pretrained weights into a backbone: from a file or address in any known format, or timm's own."""

from pathlib import Path

import timm
from torch import Tensor

from eomt_mm.checkpoints.addresses import scheme_of
from eomt_mm.checkpoints.importing import import_checkpoint
from eomt_mm.core.backbone import PlainViT

PREFIX = 'backbone.vit.'


def check_weights_exist(weights: str) -> None:
    """Raise FileNotFoundError if a local path does not exist; addresses are not checked."""
    if not scheme_of(weights) and not Path(weights).exists():
        raise FileNotFoundError(
            f"backbone weights='{weights}' do not exist; give a file or folder of timm, Meta or Hugging Face, or "
            f'hf://owner/name or http(s)://'
        )


def pretrained_address(model_name: str) -> str | None:
    """Address of timm's pretrained weights of a model on the hub; None if there are none."""
    known = timm.get_pretrained_cfg(model_name, allow_unregistered=True)
    return f'hf://{known.hf_hub_id}' if known is not None and known.hf_hub_id else None


def load_pretrained(backbone: PlainViT, weights: str | None = None) -> None:
    """Load weights into a backbone, resampled to its patch and image size.

    Args:
        backbone: the backbone to load into.
        weights: file, folder or address; None: timm's download for ``backbone.model_name``.

    Raises:
        RuntimeError: the weights cannot be read or do not fit; the backbone is unchanged.
    """
    origin = f"weights='{weights}'" if weights else f"pretrained weights of '{backbone.model_name}'"
    try:
        state = read_weights(backbone, weights) if weights else backbone.create(pretrained=True).state_dict()
    except Exception as error:
        raise RuntimeError(
            f'backbone: could not load {origin}: {error}\n'
            f'Check that the file belongs to this model; without network give model.backbone.weights=FILE, '
            f'or train from scratch with model.backbone.pretrained=False.'
        ) from error
    backbone.vit.load_state_dict(state)


def read_weights(backbone: PlainViT, weights: str) -> dict[str, Tensor]:
    """Read the state dict for ``backbone.vit`` from a file, folder or address."""
    expected = {f'backbone.{name}': value for name, value in backbone.state_dict().items()}
    state, _ = import_checkpoint(weights, expected)
    return {name.removeprefix(PREFIX): value for name, value in state.items() if name.startswith(PREFIX)}
