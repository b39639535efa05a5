"""Find the configs of a comparison by path or name, in any package, and set one input size in them."""

import difflib
import importlib.util
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config

from eomt_mm.apis.config import load_config
from eomt_mm.recipes.names import project_configs, shipped_configs

HOSTS = ('mmdet', 'mmseg')
FRAME_BY_FRAME = 'TransformBroadcaster'  # mmcv's step that applies inner steps to each frame of a video
Step = dict[str, Any]
Size = tuple[int, int]  # (height, width) in pixels


def host_configs(host: str) -> list[Path]:
    """List the configs that a host installs, without the ``_base_`` fragments."""
    spec = importlib.util.find_spec(host)
    assert spec is not None and spec.origin is not None, host  # ``import eomt_mm.apis`` demands both hosts
    folder = Path(spec.origin).parent / '.mim' / 'configs'
    return sorted(path for path in folder.glob('*/**/*.py') if '_base_' not in path.parts)


def find_config(name: str) -> Path:
    """Find the file of a config.

    Args:
        name: path; base name of one of our configs, a project's or the hosts'; or ``mmdet::mask2former/NAME``,
            ``mmseg::...``. Names may omit ``.py``.

    Raises:
        FileNotFoundError: there is no such config; the message suggests similar names.
        ValueError: several configs have that name.
    """
    if Path(name).is_file():
        return Path(name)
    host, _, inner = name.rpartition('::')
    if host and host not in HOSTS:
        raise FileNotFoundError(f"config '{name}': of {host} no configs are known; {' and '.join(HOSTS)} have some")
    inner = inner.removesuffix('.py')
    ours = [*shipped_configs(), *project_configs()]
    known = host_configs(host) if host else [*ours, *host_configs('mmdet'), *host_configs('mmseg')]
    found = [path for path in known if path.with_suffix('').as_posix().endswith(f'/{inner}')]
    if len(found) > 1:
        raise ValueError(f"config '{name}' is one of {', '.join(map(str, found))}: give the path")
    if not found:
        close = difflib.get_close_matches(Path(inner).name, [path.stem for path in known], n=3)
        hint = f'; did you mean {" or ".join(close)}?' if close else ''
        raise FileNotFoundError(
            f"config '{name}' does not exist: give a path, a name, or mmdet::FOLDER/NAME or mmseg::FOLDER/NAME{hint}"
        )
    return found[0]


def side_config(
    name: str,
    size: Size | None = None,
    options: Mapping[str, Any] | None = None,
    num_queries: int | None = None,
    data_root: str | None = None,
) -> Config:
    """Load the config of a side, with one input size everywhere in it.

    Args:
        name: see :func:`find_config`.
        size: height and width of the network's input in pixels; None: the config's own.
        options: overrides, dotted keys to values, as after ``--cfg-options``.
        num_queries: of the mask head; None: the config's own.
        data_root: see :func:`~eomt_mm.apis.config.load_config`.
    """
    path, options = find_config(name), dict(options or {})
    cfg = load_config(path, options, data_root)
    if size is not None:
        img_size = size[0] if size[0] == size[1] else list(size)
        if cfg.get('img_size', img_size) != img_size:
            options['img_size'] = img_size
            cfg = load_config(path, options, data_root)
        fit_host(cfg, size)
    if num_queries is not None:
        mask_head(cfg)['num_queries'] = num_queries
    return cfg


def fit_host(cfg: Config, size: Size) -> None:
    """Set ``size`` in a host's config: in the test pipeline and in the padding of training."""
    preprocessor = cfg.model.get('data_preprocessor') or {}
    for augment in preprocessor.get('batch_augments') or ():
        augment['size'] = size
    if preprocessor.get('type') == 'SegDataPreProcessor':
        preprocessor['size'] = size
    for step in all_steps(test_pipeline(cfg)):
        if step['type'] == 'Resize':
            step['scale'] = (size[1], size[0])  # mmcv's order
        elif step['type'] == 'ResizeShortestEdge':
            step.update(scale=min(size), max_size=max(size))


def test_pipeline(cfg: Config) -> list[Step]:
    """Test pipeline of a config."""
    dataset = cfg.test_dataloader.dataset
    while 'pipeline' not in dataset:  # wrappers
        dataset = dataset['dataset'] if 'dataset' in dataset else dataset['datasets'][0]
    return dataset['pipeline']


def all_steps(pipeline: Sequence[Step]) -> Iterator[Step]:
    """Yield all steps, including those applied to each frame of a video."""
    for step in pipeline:
        yield step
        if step['type'] == FRAME_BY_FRAME:
            yield from step['transforms']


def without_targets(pipeline: Sequence[Step]) -> list[Step]:
    """Remove the steps that load annotations from a pipeline."""
    kept = [step for step in pipeline if not re.search('Load(?!Image)', step['type'])]
    return [
        dict(step, transforms=without_targets(step['transforms'])) if step['type'] == FRAME_BY_FRAME else step
        for step in kept
    ]


def is_video(cfg: Config) -> bool:
    """Whether the model is for videos, that is, whether its test pipeline processes frames."""
    return any(step['type'] == FRAME_BY_FRAME for step in test_pipeline(cfg))


def is_ours(cfg: Config) -> bool:
    return cfg.model.type.startswith('eomt_mm.')


def mask_head(cfg: Config) -> Any:
    """Find the head's config that states the number of queries.

    Raises:
        ValueError: the model has no queries.
    """
    for name in ('panoptic_head', 'decode_head'):
        head = cfg.model.get(name)
        if isinstance(head, dict) and 'num_queries' in head:
            return head
    raise ValueError(f'model {cfg.model.type}: it has no queries, whose number could be changed')


def task_of(cfg: Config) -> str:
    """Task of a model: 'semantic', 'instance', 'panoptic', or 'detection' for models that predict boxes only."""
    model = cfg.model
    if 'decode_head' in model:
        return 'semantic'
    if 'panoptic_head' in model:
        head = model.panoptic_head
        return head.get('task') or ('panoptic' if head.get('num_stuff_classes') else 'instance')
    heads = [model, model.get('roi_head') or {}]
    return 'instance' if any('mask_head' in head for head in heads) else 'detection'


def class_counts(cfg: Config) -> tuple[int, int]:
    """Numbers of thing and stuff classes."""
    if 'decode_head' in cfg.model:
        return 0, cfg.model.decode_head.num_classes
    if 'panoptic_head' in cfg.model:
        head = cfg.model.panoptic_head
        return head.num_things_classes, head.get('num_stuff_classes', 0)
    parts = [cfg.model, cfg.model.get('roi_head') or {}]
    heads = [part[name] for part in parts for name in ('bbox_head', 'mask_head') if name in part]
    head = heads[0][0] if isinstance(heads[0], list) else heads[0]  # cascades have one per stage
    return head.num_classes, 0
