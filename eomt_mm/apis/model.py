"""Build models from configs, and load checkpoints of any known format into them."""

from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import MODELS
from mmengine.runner import load_state_dict
from torch import Tensor, nn

from eomt_mm.apis.classes import config_meta
from eomt_mm.apis.config import load_config
from eomt_mm.checkpoints.addresses import hub_address, scheme_of
from eomt_mm.checkpoints.class_names import meta_for_data, stated_meta
from eomt_mm.checkpoints.class_order import class_order_for
from eomt_mm.checkpoints.files import local_path, read_names
from eomt_mm.checkpoints.formats import EOMT, OWN, OWN_BACKBONE, Readable
from eomt_mm.checkpoints.heads import HEADS
from eomt_mm.checkpoints.importing import ClassHead, ImportReport, import_checkpoint
from eomt_mm.checkpoints.pretrained import pretrained_address
from eomt_mm.fileio.writing import written_aside
from eomt_mm.hosts.install import install


def init_model(config: str | Path | Config, checkpoint: str | Path | None = None, device: str = 'cpu') -> nn.Module:
    """Build a model in eval mode.

    Args:
        config: path, or a config that :func:`~eomt_mm.apis.config.load_config` returned.
        checkpoint: file that training saved, or any file, folder or ``hf://owner/name[@revision]`` that
            :func:`~eomt_mm.checkpoints.importing.import_checkpoint` reads for this model. None: random weights;
            nothing is downloaded.
        device: such as 'cpu' or 'cuda:0'.

    Returns:
        model with ``cfg`` and ``dataset_meta`` (classes and palette: the checkpoint's, else the config's).

    Raises:
        FileNotFoundError: there is no such config or checkpoint.
        ValueError: the checkpoint's weights do not fit this model, or it has another number of classes.
    """
    install()  # load_config does so, but the config may have been read by mmengine
    cfg = config if isinstance(config, Config) else load_config(config)
    with torch.inference_mode(False):  # whose tensors could not be trained or loaded into
        model: nn.Module = _built(cfg, checkpoint).to(device).eval()
    return model


def _built(cfg: Config, checkpoint: str | Path | None) -> Any:
    model: Any = MODELS.build(cfg.model)
    model.cfg = cfg
    model.dataset_meta = config_meta(cfg)
    if checkpoint is not None:
        state, report = import_for(cfg, checkpoint, model.state_dict())
        if report.missing:
            raise ValueError(
                f'checkpoint {checkpoint} is not a complete model: it lacks {len(report.missing)} weights, such as '
                f'{", ".join(report.missing[:3])}. Start a training from it with load_from; pretrained backbones '
                f'belong to model.backbone.weights'
            )
        load_state_dict(model, state)
        model.dataset_meta = stated_meta(report, model.dataset_meta)
    return model


def import_for(
    cfg: Config, source: str | Path, expected: dict[str, Tensor], class_head: ClassHead = True
) -> tuple[dict[str, Tensor], ImportReport]:
    """Import a checkpoint for the model of a config; see :func:`~eomt_mm.checkpoints.importing.import_checkpoint`.

    A model class may state the formats that it reads as ``checkpoint_formats``, a
    :class:`~eomt_mm.checkpoints.formats.Readable`. Official DINOv3 files hold differences from the pretrained backbone.
    The config's backbone (its ``weights`` or, with ``pretrained``, timm's on the hub) is then added.

    Args:
        cfg: config of the model.
        source: see :func:`local_checkpoint`.
        expected: the model's ``state_dict()``.
        class_head: False drops the class predictor, for other classes; 'auto' drops it if the number of classes
            differs.

    Raises:
        ValueError: the checkpoint cannot be imported. The message names the converter, whose flags state what a file
            leaves open.
    """
    install()
    readable, meta = _readable(cfg), config_meta(cfg)
    num_things = len(meta['thing_classes']) if 'thing_classes' in meta else None
    try:
        return import_checkpoint(
            source, expected, class_head=class_head, default_base=_base_of(cfg),
            class_order=class_order_for(meta.get('classes'), num_things), readable=readable,
        )  # fmt: skip
    except ValueError as error:
        if '--' not in str(error):
            raise
        raise ValueError(f'{error}\n(flags are those of {readable.converter} SRC DST --config CONFIG)') from error


def _readable(cfg: Config) -> Readable:
    kind = cfg.model.get('type')
    return getattr(MODELS.get(kind) if isinstance(kind, str) else kind, 'checkpoint_formats', EOMT)


def _base_of(cfg: Config) -> str | None:
    """Address of the pretrained weights of the config's backbone; None if it uses none."""
    backbone = cfg.model.get('backbone', {})
    if backbone.get('weights') or not backbone.get('pretrained'):
        return backbone.get('weights')
    return pretrained_address(backbone.get('model_name', ''))


def local_checkpoint(cfg: Config, source: str | Path, class_head: ClassHead = True) -> str:
    """Return the path of a checkpoint that mmengine's runner can read; convert other formats first.

    Args:
        cfg: config of the model; the converted file is written to ``cfg.work_dir``.
        source: file, folder, ``hf://owner/name[@revision]`` or its page's URL, or an ``http(s)://`` address.
        class_head: for other formats: False drops the class predictor, for other classes; 'auto' drops it if the number
            of classes differs.

    Returns:
        path.

    Raises:
        FileNotFoundError: there is no such file.
        ConnectionError: the download failed.
        ValueError: the weights do not fit this model, or the reader rejects the file.
    """
    install()
    address = hub_address(str(source))
    path = Path(address) if scheme_of(address) == 'hf' else local_path(address)
    if scheme_of(address) != 'hf':
        if not path.exists():
            raise FileNotFoundError(f'checkpoint {path} does not exist: give a .pth file that training saved')
        if path.suffix == '.dcp' or (path.suffix == '.pth' and _is_as_the_runner_reads(path, cfg)):
            return str(path)
    with torch.device('meta'):  # names and shapes are enough
        expected = MODELS.build(cfg.model).state_dict()
    state, report = import_for(cfg, address, expected, class_head)
    print(report.text())
    name = path.name if scheme_of(address).startswith('http') else address.removeprefix('hf://')
    name = name.strip('/.').replace('/', '--').removesuffix('.pth')
    target = Path(cfg.work_dir) / 'imported' / f'{name}.pth'
    with written_aside(target) as aside:
        torch.save(dict(state_dict=state, meta=dict(dataset_meta=meta_for_data(report, config_meta(cfg)))), aside)
    return str(target)


def _is_as_the_runner_reads(path: Path, cfg: Config) -> bool:
    """Whether the runner can read a ``.pth`` directly: saved by us with this model's head, or of no known format."""
    if cfg.get('resume'):
        return True
    names = read_names(path)
    known = _readable(cfg).find(names)
    if known is OWN:
        return any(name.startswith(f'{head}.') for head in HEADS if head in cfg.model for name in names)
    return known is None or known is OWN_BACKBONE
