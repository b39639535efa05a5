"""Load configs: one override changes a setting and everything derived from it."""

import difflib
import os.path as osp
import sys
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.utils import import_modules_from_strings

from eomt_mm.apis.classes import check_classes, config_meta, label_names
from eomt_mm.core.geometry import as_size
from eomt_mm.hosts.install import install
from eomt_mm.hosts.zip_backend import zip_root
from eomt_mm.recipes.classes import LOADERS, apply_metainfo, unwrapped
from eomt_mm.recipes.label_files import LABEL_KEYS, apply_label_files
from eomt_mm.recipes.names import PROJECTS, find_config as find_config
from eomt_mm.recipes.places import move_root, places, stated_root, walk

# Stated once at the top of a config and used in many places: overriding the top-level key changes all of them.
SHARED_KEYS = ('data_root', 'img_size', 'mask_annealing', 'metainfo', 'runner_type', 'sharding', *LABEL_KEYS)
# Top-level keys that are read while the file is parsed; overriding them later changes nothing.
PARSED_KEYS = dict(
    backbone='model.backbone',
    train_pipeline='train_dataloader.dataset.pipeline',
    test_pipeline='test_dataloader.dataset.pipeline',
)
MMENGINE_HOOKS = ('runtime_info', 'timer', 'sampler_seed', 'logger', 'param_scheduler', 'checkpoint')
HOST_DATASETS = tuple(f'{scope}{name}' for scope in ('', 'mmdet.') for name in ('CocoDataset', 'CocoPanopticDataset'))
FILES_OF_METRICS = {'eomt_mm.InstanceAP': ('ann_file',), 'eomt_mm.PanopticQuality': ('ann_file', 'seg_prefix')}


def load_config(
    path: str | Path, cfg_options: dict[str, Any] | None = None, data_root: str | Path | None = None
) -> Config:
    """Read a config file, apply overrides, update everything derived from them, and check that the parts fit.

    Args:
        path: config file, or name of a config (:func:`~eomt_mm.recipes.names.find_config`).
        cfg_options: overrides that map dotted keys to values, as after ``--cfg-options``. ``data_root``, ``img_size``
            (a side or (height, width)), ``metainfo`` (class names, see
            :func:`~eomt_mm.recipes.classes.apply_metainfo`), ``label_ids``, ``img_suffix`` and ``seg_map_suffix``
            (:func:`~eomt_mm.recipes.label_files.apply_label_files`) are applied wherever they are used, even where a
            config file restates the value of its base configs.
        data_root: shorthand for ``cfg_options['data_root']``. A zip file, or a folder with zip files in it, is read in
            place (:mod:`eomt_mm.hosts.zip_backend`).

    Returns:
        complete config.

    Raises:
        FileNotFoundError: there is no such config.
        ValueError: ``img_size`` or ``label_ids`` has conflicting values, or is overridden where the config has none, or
            the head's class counts do not match the data.
    """
    path = find_config(path)
    install()  # before the file is read: the first type that a config builds need not be one of ours
    cfg = Config.fromfile(path, import_custom_modules=False)
    _import_modules(cfg)
    options = dict(cfg_options or {})
    if 'img_size' in options and 'img_size' not in cfg:
        raise ValueError(
            f'img_size={options["img_size"]}: {path} has no input size, its images come in any: override the '
            f'scales in its pipelines'
        )
    if data_root is not None:
        options['data_root'] = str(data_root)
    _warn_unread(cfg, options)
    old_root = stated_root(cfg)
    cfg.merge_from_dict(options)
    _settle_root(cfg, old_root)
    if 'img_size' in cfg:
        height, width = as_size(cfg.img_size)
        cfg.img_size = height if height == width else (height, width)
        for part, key in places(cfg._cfg_dict, 'img_size'):
            if key not in options:
                part['img_size'] = cfg.img_size
    _check_img_size(cfg)
    for name in LOADERS:
        loader = cfg.get(name)
        if loader and loader.get('num_workers') == 0:
            loader.persistent_workers = False  # torch refuses it without workers
    apply_metainfo(cfg, options, config_meta)
    check_classes(cfg)
    apply_label_files(cfg, list(walk(cfg._cfg_dict)), options, label_names(cfg))
    _let_metrics_follow(cfg, options)
    _drop_hooks(cfg)
    return cfg


def image_folder(cfg: Config) -> str:
    """Folder of a config's test images; for several data sets, their common parent folder."""
    folders = []
    for dataset in unwrapped(cfg.test_dataloader.dataset):
        prefix = dataset.get('data_prefix') or {}
        folders.append(osp.join(dataset.get('data_root') or '', prefix.get('img') or prefix.get('img_path') or ''))
    return osp.commonpath(map(osp.abspath, folders))


def check_data_apart(cfg: Config, folder: str) -> None:
    """Refuse a folder of results in which results may replace files of a config's test data.

    Raises:
        ValueError: it is or lies in a folder of images or label maps, or is the folder of the annotation file, or its
            results are these annotations.
    """
    out = Path(folder).resolve()
    for dataset in unwrapped(cfg.test_dataloader.dataset):
        root, ann_file = Path(dataset.get('data_root') or ''), dataset.get('ann_file')
        names = [name for name in (dataset.get('data_prefix') or {}).values() if isinstance(name, str)]
        for place in [root / name for name in [*names, *([osp.dirname(ann_file)] if ann_file else [])]]:
            data = place.resolve()
            inside = out.is_relative_to(data) and data != root.resolve()
            of_results = any(part.parent == out and part.name.endswith('_results') for part in (data, *data.parents))
            if out == data or inside or of_results:
                raise ValueError(f'{folder}: results may replace files of the data set in {place}: name another folder')


def _settle_root(cfg: Config, old: str | None) -> None:
    """Replace the root ``old`` of all paths with the ``data_root`` of the config or the user."""
    root = cfg.get('data_root')
    if root is not None:
        cfg.data_root = zip_root(f'{osp.expanduser(str(root)).rstrip("/")}/')
        move_root(cfg._cfg_dict, old, cfg.data_root)


def _import_modules(cfg: Config) -> None:
    """Import ``custom_imports``, including packages of projects that are not installed.

    A project's package is found in ``projects/NAME/`` if the config or one of its bases is in that folder. Otherwise
    (for example, a config that training saved in its work directory) it is found by its name.
    """
    folders = [folder for file in _files(cfg) for folder in file.parents if folder.parent.name == 'projects']
    stated = dict(cfg.get('custom_imports') or {})
    imports = stated.get('imports') or []
    for name in [imports] if isinstance(imports, str) else imports:
        package = name.partition('.')[0]
        if (PROJECTS / package / package).is_dir() and find_spec(package) is None:
            folders.append(PROJECTS / package)
    for folder in map(str, folders):
        if folder not in sys.path:
            sys.path.insert(0, folder)
    if stated:
        import_modules_from_strings(**stated)


def _files(cfg: Config) -> list[Path]:
    """List a config's files, bases included: mmengine keeps their text, and each file's text starts with its path."""
    names = [line for line in cfg.text.splitlines() if line.endswith('.py') and osp.isabs(line)]
    return [Path(name).resolve() for name in names if osp.isfile(name)]


def _let_metrics_follow(cfg: Config, options: dict[str, Any]) -> None:
    """Point metrics that name annotation files at the files of the data set that they evaluate."""
    for split in ('val', 'test'):
        loader, metrics = cfg.get(f'{split}_dataloader'), cfg.get(f'{split}_evaluator')
        if not loader or not metrics:
            continue
        dataset = loader['dataset']
        root, prefix = dataset.get('data_root') or '', dataset.get('data_prefix') or {}
        paths = dict(ann_file=dataset.get('ann_file'), seg_prefix=prefix.get('seg'))
        for metric in metrics if isinstance(metrics, list) else [metrics]:
            # mmdet's data sets do not pass their annotation files to metrics
            needed = FILES_OF_METRICS.get(str(metric['type']), ()) if str(dataset['type']) in HOST_DATASETS else ()
            for key, path in paths.items():
                if path and (metric.get(key) or key in needed) and f'{split}_evaluator.{key}' not in options:
                    metric[key] = osp.join(root, path)


def _drop_hooks(cfg: Config) -> None:
    """Remove ``default_hooks`` that are None. mmengine removes only its own default hooks and rejects others."""
    hooks = cfg.get('default_hooks') or {}
    for name in [name for name, hook in hooks.items() if hook is None and name not in MMENGINE_HOOKS]:
        del hooks[name]


def _check_img_size(cfg: Config) -> None:
    stated: dict[str, list[str]] = {}
    for part, key in places(cfg._cfg_dict, 'img_size'):
        stated.setdefault(str(as_size(part['img_size'])), []).append(key)
    # The backbone's img_size is only the size for which its position embeddings are stored.
    differing = {size: [key for key in keys if 'backbone' not in key] for size, keys in stated.items()}
    differing = {size: keys for size, keys in differing.items() if keys}
    if len(differing) > 1:
        shown = '; '.join(f'{size} in {", ".join(keys[:3])}' for size, keys in differing.items())
        raise ValueError(f'img_size is stated in different ways: {shown}. Override it once: --cfg-options img_size=N')


def _warn_unread(cfg: Config, options: dict[str, Any]) -> None:
    """Warn about overrides without effect: unknown keys, and keys that are only used while the file is parsed."""
    for option in options:
        top, *rest = option.split('.')
        if top in PARSED_KEYS:
            warnings.warn(f"override '{option}' changes nothing: use '{PARSED_KEYS[top]}'", stacklevel=3)
        elif top not in cfg and top not in SHARED_KEYS:
            close = difflib.get_close_matches(top, list(cfg.keys()), n=3)
            hint = f'; did you mean {" or ".join(close)}?' if close else ''
            warnings.warn(f"override '{option}': the config has no '{top}', nothing may read it{hint}", stacklevel=3)
        elif top == 'default_hooks' and rest and rest[0] not in cfg[top]:
            continue  # a hook of the user's
        elif rest and top in cfg and _is_unknown(cfg[top], rest):
            warnings.warn(f"override '{option}': there is no such key in the config, nothing may read it", stacklevel=3)


def _is_unknown(node: Any, keys: list[str]) -> bool:
    """Whether ``keys`` lead to a missing entry of a part without ``type`` (a type checks its arguments itself)."""
    for key in keys:
        if isinstance(node, list | tuple) and key.isdigit() and int(key) < len(node):
            node = node[int(key)]
        elif isinstance(node, dict) and key in node:
            node = node[key]
        else:
            return not (isinstance(node, dict) and 'type' in node)
    return False
