"""Safe unpickling of numbers, arrays and tensors: all other classes are refused, so that no code is executed."""

import io
import pickle
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch._utils import _rebuild_tensor_v2

Allowed = Mapping[tuple[str, str], Any]


def _load_storage(content: bytes) -> Any:
    """Replacement of torch's ``_load_from_bytes``, which unpickles without restrictions."""
    return torch.load(io.BytesIO(content), map_location='cpu', weights_only=True)


def _encode(text: str, encoding: str) -> bytes:
    """Replacement of ``_codecs.encode`` for pickles of bytes, restricted to latin1: the original accepts any codec."""
    if encoding not in ('latin1', 'latin-1'):
        raise pickle.UnpicklingError(f'bytes in the encoding {encoding!r}')
    return text.encode('latin1')


def _numbers() -> dict[tuple[str, str], Any]:
    """Return the globals that pickles of tensors and arrays refer to, under the names of numpy 1 and 2."""
    rebuild = dict(_reconstruct=np.zeros(0).__reduce__()[0], scalar=np.float64(0).__reduce__()[0])
    arrays = {
        (f'numpy.{core}.multiarray', name): value for core in ('core', '_core') for name, value in rebuild.items()
    }
    return {
        **arrays,
        ('numpy', 'ndarray'): np.ndarray,
        ('numpy', 'dtype'): np.dtype,
        ('_codecs', 'encode'): _encode,
        ('collections', 'OrderedDict'): OrderedDict,
        ('torch._utils', '_rebuild_tensor_v2'): _rebuild_tensor_v2,
        ('torch.storage', '_load_from_bytes'): _load_storage,
    }


NUMBERS: Allowed = _numbers()


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: BinaryIO, allowed: Allowed) -> None:
        super().__init__(file)
        self._allowed = allowed

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in self._allowed:
            return self._allowed[module, name]
        value = getattr(torch, name, None) if module == 'torch' else None
        if isinstance(value, torch.dtype):
            return value
        raise pickle.UnpicklingError(f'it refers to {module}.{name}, and reading that could execute code')


def read_pickle(path: str | Path, allowed: Allowed = NUMBERS) -> Any:
    """Read a pickle that contains only plain values and allowed classes.

    Args:
        path: path of the file.
        allowed: allowed classes and functions by module and name, as pickles refer to them. torch's dtypes are always
            allowed.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is damaged or refers to anything else; the message is one line.
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        raise ValueError(f'{path} is not a regular file')
    try:
        with path.open('rb') as file:
            return _Unpickler(file, allowed).load()
    except OSError:
        raise
    except Exception as error:  # unpickling can raise any exception
        reason = ' '.join(str(error).split())[:200] or type(error).__name__
        raise ValueError(f'{path} cannot be read ({reason}): create it again from files that you trust') from error
