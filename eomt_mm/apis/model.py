"""Models from configurations."""

from pathlib import Path

from mmengine.config import Config
from mmengine.registry import MODELS
from mmengine.runner import load_checkpoint
from torch import nn

from eomt_mm.apis.config import load_config


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
        try:
            saved = load_checkpoint(model, str(checkpoint), map_location='cpu', strict=True)
        except RuntimeError as error:
            raise ValueError(
                f'checkpoint {checkpoint} does not fit the model of {cfg.filename}: {error}\n'
                f'Use the config it was trained with (same backbone, classes, queries, img_size)'
            ) from error
        model.dataset_meta = saved.get('meta', {}).get('dataset_meta', {})
    return model.to(device).eval()


def check_checkpoint(path: str | Path) -> None:
    """Raises FileNotFoundError where a checkpoint does not exist."""
    if not Path(path).is_file():
        raise FileNotFoundError(f'checkpoint {path} does not exist: give a .pth file that training saved')
