"""Checkpoint folders ``.dcp`` read without executing anything: torch unpickles their index without limits."""

import math
import pathlib
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint import filesystem, metadata
from torch.serialization import _get_layout

from eomt_mm.checkpoints.pickles import Allowed, read_pickle

_METADATA = (
    'Metadata', 'TensorStorageMetadata', 'TensorProperties', 'ChunkStorageMetadata', 'MetadataIndex', 'StorageMeta',
    '_MEM_FORMAT_ENCODING',
)  # fmt: skip
# What torch.distributed.checkpoint writes into the index of a folder of tensors.
INDEX: Allowed = {
    **{(metadata.__name__, name): getattr(metadata, name) for name in _METADATA if hasattr(metadata, name)},
    (filesystem.__name__, '_StorageInfo'): filesystem._StorageInfo,
    ('torch', 'Size'): torch.Size,
    ('torch.serialization', '_get_layout'): _get_layout,
    ('pathlib', 'PosixPath'): pathlib.PurePosixPath,
    ('pathlib', 'WindowsPath'): pathlib.PureWindowsPath,
    ('pathlib._local', 'PosixPath'): pathlib.PurePosixPath,  # Python 3.13
    ('pathlib._local', 'WindowsPath'): pathlib.PureWindowsPath,
}


class LimitedReader(dcp.FileSystemReader):
    """torch's reader of checkpoint folders, for folders of tensors alone.

    Args:
        folder: ``.dcp``.
    """

    def __init__(self, folder: str | Path) -> None:
        super().__init__(str(folder))
        self._folder = Path(folder)

    def read_metadata(self, *args: Any, **kwargs: Any) -> metadata.Metadata:
        """The index, after it was read by an unpickler that knows nothing but its classes.

        Raises:
            FileNotFoundError: there is none.
            ValueError: it holds anything else, or more than the folder does.
        """
        for index in {self._folder / '.metadata', *self._folder.glob('*.metadata')}:
            self._check(index)
        return super().read_metadata(*args, **kwargs)

    def _check(self, index: Path) -> None:
        found = read_pickle(index, INDEX)
        try:
            # Entries of any other kind, which torch unpickles without limits, have no class in INDEX and no size.
            size = sum(math.prod(e.size) * e.properties.dtype.itemsize for e in found.state_dict_metadata.values())
            places = {info.relative_path for info in found.storage_data.values()}
        except (AttributeError, TypeError) as error:
            raise ValueError(f'{index} is no index of a checkpoint folder ({error}): copy the folder again') from error
        if any(Path(place).name != place for place in places):
            raise ValueError(f'{index} names files elsewhere: they lie beside the index')
        held = sum((self._folder / place).stat().st_size for place in places)
        if size > held:
            raise ValueError(f'{index} names tensors of {size} bytes, and its files hold {held}: copy the folder again')
