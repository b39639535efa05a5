"""Models from configurations."""

from pathlib import Path

from mmengine.config import Config
from mmengine.registry import MODELS
from mmengine.runner import CheckpointLoader, load_state_dict
from torch import nn

from eomt_mm.apis.config import load_config
from eomt_mm.checkpoints.fit import check_fit


def init_model(config: str | Path | Config, checkpoint: str | Path | None = None, device: str = 'cpu') -> nn.Module:
    """Builds a model in eval mode.

    Args:
        config: path, or what :func:`~eomt_mm.apis.config.load_config` returned.
        checkpoint: file saved in training. None: random weights; nothing is downloaded.
        device: such as 'cpu' or 'cuda:0'.

    Returns:
        model with ``cfg`` and, from the checkpoint, ``dataset_meta``.

    Raises:
        FileNotFoundError: there is no such config or checkpoint.
        ValueError: the checkpoint's weights are not this model's.
    """
    cfg = config if isinstance(config, Config) else load_config(config)
    model = MODELS.build(cfg.model)
    model.cfg = cfg
    if checkpoint is not None:
        check_checkpoint(checkpoint)
        saved = CheckpointLoader.load_checkpoint(str(checkpoint), map_location='cpu')
        check_fit(model.state_dict(), saved.get('state_dict', saved), str(checkpoint))
        load_state_dict(model, saved.get('state_dict', saved))
        model.dataset_meta = saved.get('meta', {}).get('dataset_meta', {})
    return model.to(device).eval()


def check_checkpoint(path: str | Path) -> None:
    """Raises FileNotFoundError where a local checkpoint does not exist; addresses (``https://...``) pass."""
    if '://' not in str(path) and not Path(path).is_file():
        raise FileNotFoundError(f'checkpoint {path} does not exist: give a .pth file that training saved')
