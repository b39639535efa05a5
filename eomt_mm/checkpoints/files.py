"""Read files and folders of weights, without executing anything that they contain."""

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from eomt_mm.checkpoints.addresses import cache_path, download, fetch, hub_address, scheme_of
from eomt_mm.checkpoints.kinds import foreign_kind
from eomt_mm.checkpoints.torch_files import check_tensor, file_fault, read_torch
from eomt_mm.fileio.writing import written_aside

State = dict[str, Tensor]

# In a folder, the first of these that exists is read. safetensors come first: Hugging Face's format is never a delta.
FOLDER_FILES = ('model.safetensors', 'model.safetensors.index.json', 'pytorch_model.bin')
NESTED = ('state_dict', 'model', 'model_state_dict', 'module')
# Name parts that torch.compile adds.
COMPILED = re.compile(r'(^|\.)_orig_mod(?=\.)')
# Leading parts that other wrappers add: DistributedDataParallel and averaging, and modules of training programs such as
# Lightning's. The second one is also the name of a part in other models: it is removed before names of an EoMT only,
# or if all names begin with it.
WRAPPER, OWNER = 'module.', 'model.'
WRAPPED = re.compile(r'^(?:(?:module|model)\.)+(?=(?:backbone|network|panoptic_head|decode_head|data_preprocessor)\.)')


@dataclass
class Checkpoint:
    """Content of a checkpoint file.

    Attributes:
        state: flat dict of names to tensors; names as :func:`plain_names` gives them.
        path: path of the file, for messages.
        config: ``config.json`` of a Hugging Face folder; empty if there is none.
        meta: ``meta`` of files saved by mmengine or by us; empty if there is none.
    """

    state: State
    path: str
    config: dict[str, Any] = field(default_factory=dict)
    meta: dict[str, Any] = field(default_factory=dict)


def read_checkpoint(source: str | Path) -> Checkpoint:
    """Read a checkpoint; only tensors and plain values are ever unpickled.

    Args:
        source: ``.safetensors`` file, any file that ``torch.load`` reads, a folder with one of ``FOLDER_FILES``, or an
            address; see :func:`local_path`.

    Returns:
        content of the checkpoint, with weights on the CPU.

    Raises:
        FileNotFoundError: the file does not exist, or the folder has none of ``FOLDER_FILES``.
        ConnectionError: the download failed.
        ValueError: the file is damaged, holds no weights, or would execute code.
    """
    path = local_path(source)
    if not path.exists():
        raise FileNotFoundError(
            f'checkpoint {path} does not exist: give a file, a folder of Hugging Face, or hf://owner/name[@revision]'
        )
    config: dict[str, Any] = {}
    if path.is_dir():
        folder, path = path, weights_file(path)
        if path == folder:
            raise FileNotFoundError(_without_weights(folder))
        if (folder / 'config.json').is_file():
            config = _read_config(folder / 'config.json')
    if path.name.endswith('.index.json'):
        saved = _read_shards(path)
    elif path.suffix == '.safetensors':
        saved = _read_safetensors(path)
    else:
        saved = read_torch(path)
    meta = saved.get('meta') if isinstance(saved, Mapping) else None
    return Checkpoint(flat_state(saved, path), str(path), config, checked_meta(meta, path))


def read_names(path: Path) -> list[str]:
    """Return the names that :func:`read_checkpoint` gives for a ``torch.save`` file, without loading its weights.

    Raises:
        ValueError: the file is damaged, holds no weights, or would execute code.
    """
    return list(flat_state(read_torch(path, mmap=True), path))


def local_path(source: str | Path) -> Path:
    """Return the local path of a checkpoint; download it first if it is an address and not cached yet.

    Args:
        source: path, ``hf://owner/name[@revision]``, a page of the hub, or ``http(s)://``. Files from ``http(s)://``
            are cached below ``torch.hub.get_dir()``, by their whole address.

    Raises:
        ConnectionError: the download failed; the incomplete file is removed.
        ValueError: the scheme is not supported, or the downloaded file is damaged or is not a file of weights.
    """
    address = hub_address(source) if isinstance(source, str) else source
    scheme = scheme_of(address)
    if not scheme:
        return Path(address)
    if scheme == 'hf':
        return download(str(address))
    target = cache_path(str(address))
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f'{target}.lock'):  # processes of one run
        if not target.exists():
            with written_aside(target) as aside:
                fetch(str(address), aside)
                if fault := file_fault(aside):
                    raise ValueError(f"checkpoint '{address}' {fault}")
            print(f"checkpoint '{address}' is cached as {target}")
    return target


def weights_file(source: str | Path) -> Path:
    """The file that is read of a local checkpoint: of a folder, the first of ``FOLDER_FILES`` that it has."""
    path = Path(source)
    return next((path / name for name in FOLDER_FILES if (path / name).is_file()), path)


def _without_weights(folder: Path) -> str:
    there = sorted(path.name for path in folder.iterdir())
    shown = ', '.join(there[:12]) + (', ...' if len(there) > 12 else '') or 'nothing'
    return (
        f'folder {folder} has no weights: one of {", ".join(FOLDER_FILES)} is needed, found {shown}. '
        f'Give the file itself if it has another name'
    )


def _read_config(path: Path) -> dict[str, Any]:
    """Read and check ``config.json`` of a Hugging Face folder."""
    config = _read_json(path)
    names = config.get('id2label') or {}
    if not isinstance(names, dict):
        raise ValueError(f'{path}: id2label is a {type(names).__name__}, not an object: download it again')
    if set(names) != {str(k) for k in range(len(names))} or not all(isinstance(name, str) for name in names.values()):
        raise ValueError(
            f'{path}: id2label is {names!r:.80}: it must have a name for each of "0", "1", ..., "{len(names) - 1}"'
        )
    return config


def _read_json(path: Path) -> dict[str, Any]:
    if fault := foreign_kind(path):
        raise ValueError(f'{path} {fault}')
    try:
        content = json.loads(path.read_text(encoding='utf-8'))
    except (ValueError, RecursionError) as error:  # RecursionError: deeply nested lists
        raise ValueError(f'{path} is no JSON ({error}): download it again') from error
    if not isinstance(content, dict):
        raise ValueError(f'{path} holds a {type(content).__name__}, not an object: download it again')
    return content


def _read_safetensors(path: Path) -> State:
    if fault := file_fault(path):
        raise ValueError(f'{path} {fault}')
    try:
        state = load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError, AttributeError, RuntimeError) as error:  # unknown types
        raise ValueError(f'{path} is no complete safetensors file ({error}): download it again') from error
    for name, value in state.items():
        check_tensor(value, name, path)
    return state


def _read_shards(index: Path) -> State:
    shards = _read_json(index).get('weight_map')
    if not isinstance(shards, dict) or not shards:
        raise ValueError(f'{index} has no weight_map: download it again')
    odd = next((name for name in shards.values() if not isinstance(name, str)), None)
    if odd is not None:
        raise ValueError(f'{index} names the shard {odd!r:.80}, which is no file name: download it again')
    state: State = {}
    for name in sorted(set(shards.values())):
        if Path(name).name != name:
            raise ValueError(f"{index} names the shard '{name}', which lies elsewhere: put shards beside the index")
        if not (index.parent / name).is_file():
            raise FileNotFoundError(f'{index} names the shard {index.parent / name}, which is missing: download it')
        state.update(_read_safetensors(index.parent / name))
    lacking = sorted(set(shards) - set(state))
    if lacking:
        raise ValueError(f'{index} names weights that no shard holds: {", ".join(lacking)}. Download the folder again')
    return state


def flat_state(saved: Any, path: Path) -> State:
    """Extract the weights from the nested dicts in which training programs save them."""
    weights = _innermost(saved)
    if not isinstance(weights, Mapping):
        raise ValueError(f'{path} holds a {type(weights).__name__}, not a dict of weights: give its state_dict')
    plain = plain_names(weight_names(weights))
    if not plain:
        entries = ', '.join(map(str, list(weights)[:12]))
        raise ValueError(f'{path} holds no weights; its entries are {entries or "none"}')
    state = {name: weights[old] for old, name in plain.items()}
    if len(state) < len(plain):
        name = next(name for name, count in Counter(plain.values()).items() if count > 1)
        raise ValueError(f"{path} holds '{name}' twice, with and without a prefix (_orig_mod., module. or model.)")
    return state


def weight_names(saved: Any) -> list[str]:
    """Names of the weights in a file's content, as stored; empty if it has none."""
    weights = _innermost(saved)
    entries = weights.items() if isinstance(weights, Mapping) else ()
    return [name for name, value in entries if isinstance(name, str) and isinstance(value, Tensor)]


def _innermost(saved: Any) -> Any:
    inner = saved
    while isinstance(inner, Mapping):
        saved, inner = inner, next((inner[key] for key in NESTED if isinstance(inner.get(key), Mapping)), None)
    return saved


def plain_names(names: Sequence[str]) -> dict[str, str]:
    """Map names of weights to the names without what torch.compile, DistributedDataParallel and Lightning add.

    ``_orig_mod`` is removed wherever it is; ``module.`` and ``model.`` at the beginning, in any order and number.
    """
    plain = {name: COMPILED.sub('', name).removeprefix('.') for name in names}
    while plain:
        shared = next((part for part in (WRAPPER, OWNER) if all(n.startswith(part) for n in plain.values())), None)
        if shared is None:
            break
        plain = {name: short.removeprefix(shared) for name, short in plain.items()}
    return {name: WRAPPED.sub('', short).removeprefix(WRAPPER) for name, short in plain.items()}


def checked_meta(meta: Any, path: Path) -> dict[str, Any]:
    """Return ``meta`` of a file, or an empty dict; raise ValueError if class names or colours are malformed.

    ``dataset_meta`` gets lower-case keys; before mmengine, its entries were CLASSES and PALETTE of ``meta``.
    """
    if not isinstance(meta, Mapping):
        return {}
    stated = meta.get('dataset_meta') or {key: meta[key] for key in ('CLASSES', 'PALETTE') if meta.get(key)}
    fix = 'give its state_dict alone, and the class names in the config'
    if not isinstance(stated, Mapping):
        raise ValueError(f'{path}: meta.dataset_meta is a {type(stated).__name__}, not a dict: {fix}')
    stated = {str(key).lower(): value for key, value in stated.items()}
    for key in ('classes', 'thing_classes', 'stuff_classes'):
        names = stated.get(key) or ()
        if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
            raise ValueError(f'{path}: meta.dataset_meta.{key} is {names!r:.80}, not a list of names: {fix}')
    palette = stated.get('palette') or ()
    if not isinstance(palette, list | tuple) or not all(_is_colour(colour) for colour in palette):
        raise ValueError(f'{path}: meta.dataset_meta.palette is {palette!r:.80}, not a list of (R, G, B): {fix}')
    return {**meta, 'dataset_meta': stated} if stated else dict(meta)


def _is_colour(value: Any) -> bool:
    return (
        isinstance(value, list | tuple)
        and len(value) == 3
        and all(isinstance(part, int) and 0 <= part < 256 for part in value)
    )


def check_finite(state: Mapping[str, Tensor], path: str, name_of: Callable[[str], str] = str) -> None:
    """Refuse weights with NaN or infinity.

    Args:
        state: names to tensors.
        path: file, for the message.
        name_of: function that converts a name of ``state`` to the name for the message.

    Raises:
        ValueError: some weights are not finite; the message lists all of them.
    """
    bad = [name_of(name) for name, value in state.items() if not bool(torch.isfinite(value).all())]
    if bad:
        listed = '\n'.join(f'  {name}' for name in bad)
        raise ValueError(
            f'{path}: {len(bad)} weights hold NaN or infinity:\n{listed}\n'
            f'The file is damaged, or its training diverged: download it again, or use an earlier checkpoint'
        )
