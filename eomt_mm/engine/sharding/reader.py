"""Safe reader of ``.dcp`` checkpoint folders: nothing is executed, while torch unpickles their index unrestricted."""

import io
import math
import pathlib
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint import filesystem, metadata
from torch.futures import Future
from torch.serialization import _get_layout

from eomt_mm.checkpoints.pickles import Allowed, read_pickle
from eomt_mm.checkpoints.torch_files import zip_damage

_METADATA = (
    'Metadata', 'TensorStorageMetadata', 'TensorProperties', 'ChunkStorageMetadata', 'MetadataIndex', 'StorageMeta',
    '_MEM_FORMAT_ENCODING',
)  # fmt: skip
# All classes and functions that torch.distributed.checkpoint writes into the index of a folder of tensors.
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
    """torch's reader of checkpoint folders, restricted to folders that hold only tensors.

    Args:
        folder: path that ends in ``.dcp``.
    """

    def __init__(self, folder: str | Path) -> None:
        super().__init__(str(folder))
        self._folder = Path(folder)

    def read_metadata(self, *args: Any, **kwargs: Any) -> metadata.Metadata:
        """Read the index, after checking it with an unpickler that is restricted to the classes of an index.

        Raises:
            FileNotFoundError: the folder has no index.
            ValueError: the index holds other objects, or more data than the files of the folder.
        """
        for index in {self._folder / '.metadata', *self._folder.glob('*.metadata')}:
            self._check(index)
        return super().read_metadata(*args, **kwargs)

    def read_data(self, plan: dcp.LoadPlan, planner: dcp.LoadPlanner) -> Future[None]:
        """Read tensors, after verifying the checksums of those that this process reads.

        Raises:
            ValueError: a tensor is damaged.
        """
        for place in {item.storage_index for item in plan.items}:
            if fault := piece_damage(self._folder, self.storage_data[place]):
                raise ValueError(f'checkpoint {self._folder} holds {fault}')
        return super().read_data(plan, planner)

    def _check(self, index: Path) -> None:
        found = read_pickle(index, INDEX)
        try:
            # Entries other than tensors, which torch would unpickle unrestricted, are not in INDEX and have no size.
            size = sum(math.prod(e.size) * e.properties.dtype.itemsize for e in found.state_dict_metadata.values())
            pieces = list(found.storage_data.values())
            places = {piece.relative_path for piece in pieces}
            is_beside = all(Path(place).name == place for place in places)
            is_within = all(piece.offset >= 0 and piece.length >= 0 for piece in pieces)
        except (AttributeError, TypeError) as error:
            raise ValueError(f'{index} is no index of a checkpoint folder ({error}): copy the folder again') from error
        if not is_beside or not is_within:
            raise ValueError(f'{index} names files elsewhere, or places outside the files: copy the folder again')
        held = sum((self._folder / place).stat().st_size for place in places)
        if size > held:
            raise ValueError(f'{index} names tensors of {size} bytes, but the files hold {held}: copy the folder again')


def folder_damage(folder: Path) -> str | None:
    """Describe the damage of a folder's tensors, as text that starts with a file name; None if there is no damage.

    Raises:
        OSError, ValueError: see :meth:`LimitedReader.read_metadata`.
    """
    pieces = LimitedReader(folder).read_metadata().storage_data.values()
    return next((fault for piece in pieces if (fault := piece_damage(folder, piece))), None)


def piece_damage(folder: Path, piece: filesystem._StorageInfo) -> str | None:
    """Describe the damage of one tensor, which is an archive of ``torch.save`` in a file; see :func:`folder_damage`."""
    with (folder / piece.relative_path).open('rb') as file:
        file.seek(piece.offset)
        fault = zip_damage(io.BytesIO(file.read(piece.length)))
    return f'{piece.relative_path}, which {fault}' if fault else None
