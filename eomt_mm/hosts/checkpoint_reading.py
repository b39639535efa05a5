"""Safe checkpoint reading in mmengine: with our reader, and with ``weights_only``."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.logging.history_buffer import HistoryBuffer
from mmengine.runner import CheckpointLoader, checkpoint
from torch import Tensor

from eomt_mm.checkpoints.class_names import placeholders
from eomt_mm.checkpoints.files import NESTED, checked_meta, flat_state, local_path, plain_names, weight_names
from eomt_mm.checkpoints.formats import EOMT, OWN, OWN_BACKBONE
from eomt_mm.checkpoints.mmengine_types import mmengine_globals
from eomt_mm.checkpoints.torch_files import read_torch
from eomt_mm.recipes.classes import default_palette

FOREIGN_QUERIES = ('query.weight', 'network.q.weight')  # in Hugging Face's and official files


def allow_checkpoint_globals() -> None:
    """Allow the types of mmengine's checkpoints in this process, so that ``weights_only`` can read them."""
    torch.serialization.add_safe_globals([*GLOBALS])


def read_checkpoints_safely() -> None:
    """Make mmengine read every checkpoint with our reader.

    mmengine leaves ``weights_only`` to torch, where it is always off in ``torch.hub``. It
    also caches downloads by base name and verifies no checksums. Its fork onedl-mmengine unpickles without
    restrictions what ``weights_only`` refuses. Re-registering every scheme bypasses all of that code.
    """

    def named(names: Callable[[], Mapping[str, str]]) -> Callable[..., Any]:
        return lambda filename, map_location=None: load_from_eomt_mm(_address(filename, names()))

    def mmcls(filename: str, map_location: Any = None) -> Any:
        return checkpoint._process_mmcls_checkpoint(
            load_from_eomt_mm(_address(filename, checkpoint.get_mmcls_models()))
        )

    loaders: dict[tuple[str, ...], Callable[..., Any]] = {
        tuple(CheckpointLoader._schemes): load_from_eomt_mm,  # refuses the schemes that are not listed below
        ('', 'http://', 'https://', 'hf://'): load_from_eomt_mm,
        ('modelzoo://', 'torchvision://'): named(checkpoint.get_torchvision_models),
        ('open-mmlab://', 'openmmlab://'): named(_openmmlab_models),
        ('mmcls://',): mmcls,
    }
    for prefixes, loader in loaders.items():
        loader.__name__ = load_from_eomt_mm.__name__  # mmengine logs this name
        CheckpointLoader.register_scheme(prefixes, loader, force=True)


def load_from_eomt_mm(filename: str, map_location: Any = None) -> Any:
    """Load a checkpoint for mmengine, always on the CPU; models copy it to their device. ``map_location`` is ignored.

    Raises:
        OSError, ValueError: see :func:`~eomt_mm.checkpoints.files.local_path`,
            :func:`~eomt_mm.checkpoints.torch_files.read_torch`; or the file is an EoMT of another program.
    """
    path = local_path(str(filename)).expanduser()
    return as_hosts_read(read_torch(path), path)


def as_hosts_read(content: Any, path: Path) -> Any:
    """Give the content of our models' files the form that mmengine and the hosts expect; return others unchanged.

    Weights are in ``state_dict``, under the model's own names. Where the file states no class names, ``meta`` gets
    placeholders: the hosts would take those of COCO or Cityscapes. Where it states no palette, it gets a default one:
    mmseg would take that of Cityscapes.

    Raises:
        ValueError: the file is an EoMT of another program.
    """
    names = set(plain_names(weight_names(content)).values())
    known = EOMT.find(names)
    if known is not None and names.intersection(FOREIGN_QUERIES):
        raise ValueError(
            f'{path} is of the format {known.title}, which mmengine and the hosts do not read: convert it with '
            f'tools/convert_checkpoint.py SRC DST --config CONFIG, or build the model with eomt_mm.apis.init_model'
        )
    if known not in (OWN, OWN_BACKBONE):
        return content
    state, meta = flat_state(content, path), checked_meta(content.get('meta'), path)
    rows = next((value for name, value in state.items() if name.endswith('.class_predictor.weight')), None)
    if rows is not None:
        stated = meta.get('dataset_meta') or {}
        classes = stated.get('classes') or placeholders(len(rows) - 1)
        palette = stated.get('palette') or default_palette(len(classes))
        meta['dataset_meta'] = {**stated, 'classes': classes, 'palette': palette}
    others = {key: value for key, value in content.items() if key not in NESTED and not isinstance(value, Tensor)}
    return {**others, 'meta': meta, 'state_dict': state}


def _address(filename: str, places: Mapping[str, str]) -> str:
    """Resolve a name such as ``torchvision://resnet50`` to its address."""
    name = filename.partition('://')[2]
    if name not in places:
        raise ValueError(f"checkpoint '{filename}': there is no model with this name; check its spelling")
    return places[name]


def _openmmlab_models() -> dict[str, str]:
    """Map model names to addresses, including deprecated names; relative paths are below mmengine's home."""
    home, models = checkpoint._get_mmengine_home(), checkpoint.get_external_models()
    models.update({old: models[new] for old, new in checkpoint.get_deprecated_model_names().items() if new in models})
    return {name: place if '://' in place else os.path.join(home, place) for name, place in models.items()}


GLOBALS = mmengine_globals(HistoryBuffer)
