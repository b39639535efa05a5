"""Models from configurations, and checkpoints of any known format for them."""

from pathlib import Path

import timm
import torch
from mmengine.config import Config
from mmengine.registry import MODELS
from mmengine.runner import load_state_dict
from torch import Tensor, nn

from eomt_mm.apis.classes import config_meta
from eomt_mm.apis.config import load_config
from eomt_mm.checkpoints.addresses import hub_address, scheme_of
from eomt_mm.checkpoints.class_names import stated_meta
from eomt_mm.checkpoints.class_order import class_order_for
from eomt_mm.checkpoints.files import local_path, read_names
from eomt_mm.checkpoints.formats import EOMT, OWN, OWN_BACKBONE, Readable
from eomt_mm.checkpoints.heads import HEADS
from eomt_mm.checkpoints.importing import ClassHead, ImportReport, import_checkpoint
from eomt_mm.fileio.writing import written_aside
from eomt_mm.hosts.install import install


def init_model(config: str | Path | Config, checkpoint: str | Path | None = None, device: str = 'cpu') -> nn.Module:
    """Build a model in eval mode.

    Args:
        config: path, or what :func:`~eomt_mm.apis.config.load_config` returned.
        checkpoint: saved in training, or any file, folder or ``hf://owner/name[@revision]`` that
            :func:`~eomt_mm.checkpoints.importing.import_checkpoint` reads for a model of this kind. None: random
            weights; nothing is downloaded.
        device: such as 'cpu' or 'cuda:0'.

    Returns:
        model with ``cfg`` and ``dataset_meta`` (classes and palette: the checkpoint's, else the config's).

    Raises:
        FileNotFoundError: there is no such config or checkpoint.
        ValueError: the checkpoint's weights are not this model's, or it names another number of classes.
    """
    install()  # a config of mmengine's own reader did not
    cfg = config if isinstance(config, Config) else load_config(config)
    model = MODELS.build(cfg.model)
    model.cfg = cfg
    model.dataset_meta = config_meta(cfg)
    if checkpoint is not None:
        state, report = import_for(cfg, checkpoint, model.state_dict())
        if report.missing:
            raise ValueError(
                f'checkpoint {checkpoint} is no whole model: it lacks {len(report.missing)} weights, such as '
                f'{", ".join(report.missing[:3])}. Start a training from it with load_from; pretrained backbones '
                f'belong to model.backbone.weights'
            )
        load_state_dict(model, state)
        model.dataset_meta = stated_meta(report, model.dataset_meta)
    return model.to(device).eval()


def import_for(
    cfg: Config, source: str | Path, expected: dict[str, Tensor], class_head: ClassHead = True
) -> tuple[dict[str, Tensor], ImportReport]:
    """:func:`~eomt_mm.checkpoints.importing.import_checkpoint` for the model of a config.

    The model's class may name its formats: ``checkpoint_formats``, a
    :class:`~eomt_mm.checkpoints.formats.Readable`. Official DINOv3 files hold differences to the pretrained backbone;
    that of the config (its ``weights``, or with ``pretrained`` timm's on the hub) is then added.

    Args:
        cfg: of the model.
        source: see :func:`local_checkpoint`.
        expected: the model's ``state_dict()``.
        class_head: False leaves out the class predictor, for other classes; 'auto' where their number differs.

    Raises:
        ValueError: naming the converter, which has flags for files that do not tell everything themselves.
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
        raise ValueError(f'{error}\n(flags are those of {readable.converter} SRC DST --config CONFIG)') from error


def _readable(cfg: Config) -> Readable:
    kind = cfg.model.get('type')
    return getattr(MODELS.get(kind) if isinstance(kind, str) else kind, 'checkpoint_formats', EOMT)


def _base_of(cfg: Config) -> str | None:
    """Address of the pretrained weights of the config's backbone, if it may use them."""
    backbone = cfg.model.get('backbone', {})
    if backbone.get('weights') or not backbone.get('pretrained'):
        return backbone.get('weights')
    known = timm.get_pretrained_cfg(backbone.get('model_name', ''), allow_unregistered=True)
    return f'hf://{known.hf_hub_id}' if known is not None and known.hf_hub_id else None


def local_checkpoint(cfg: Config, source: str | Path, class_head: ClassHead = True) -> str:
    """Path of a checkpoint that mmengine's runner can read; other formats are converted first.

    Args:
        cfg: of the model; the converted file goes to ``cfg.work_dir``.
        source: file, folder, ``hf://owner/name[@revision]`` or its page, or an ``http(s)://`` address.
        class_head: False leaves the class predictor of other formats out, for other classes; 'auto' where their number
            differs.

    Returns:
        path.

    Raises:
        FileNotFoundError: there is no such file.
        ConnectionError: the download failed.
        ValueError: its weights are not this model's, or it is refused by the reader.
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
        torch.save(dict(state_dict=state, meta=dict(dataset_meta=stated_meta(report, config_meta(cfg)))), aside)
    return str(target)


def _is_as_the_runner_reads(path: Path, cfg: Config) -> bool:
    """Whether a ``.pth`` is ours with the model's head, or of no known format, which the runner then compares."""
    if cfg.get('resume'):
        return True
    names = read_names(path)
    known = _readable(cfg).find(names)
    if known is OWN:
        return any(name.startswith(f'{head}.') for head in HEADS if head in cfg.model for name in names)
    return known is None or known is OWN_BACKBONE
