"""mmengine's local files, written whole or not at all.

mmengine's own backend truncates the old file and then writes: a run that is killed in between, or whose disk is full,
has neither the old content nor the new one.
"""

import os
from pathlib import Path

from mmengine import fileio
from mmengine.fileio import LocalBackend
from mmengine.fileio.io import backend_instances

from eomt_mm.fileio.writing import write_whole


class AtomicLocalBackend(LocalBackend):
    """mmengine's local backend, with ``put`` and ``put_text`` that write aside, flush to the disk and rename."""

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write bytes; raises as :func:`~eomt_mm.fileio.writing.write_whole`."""
        write_whole(filepath, obj, sync=True)

    def put_text(self, obj: str, filepath: str | Path, encoding: str = 'utf-8') -> None:
        """Write text, see :meth:`put`; line ends are the system's."""
        self.put(obj.replace('\n', os.linesep).encode(encoding), filepath)


def replace_local_backend() -> None:
    """Register the backend as 'local' and for paths without a prefix, in place of mmengine's and of its instances."""
    fileio.register_backend('local', AtomicLocalBackend, force=True, prefixes='')
    for key in [key for key, backend in backend_instances.items() if type(backend) is LocalBackend]:
        del backend_instances[key]
