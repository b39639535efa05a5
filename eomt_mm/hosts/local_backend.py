"""Local file backend of mmengine with atomic writes.

mmengine's own backend truncates the old file before it writes. If the run is killed in between, or the disk is full,
both the old and the new content are lost.
"""

import os
from pathlib import Path

from mmengine import fileio
from mmengine.fileio import LocalBackend
from mmengine.fileio.io import backend_instances

from eomt_mm.fileio.writing import write_whole


class AtomicLocalBackend(LocalBackend):
    """mmengine's local backend, with ``put`` and ``put_text`` that write a temporary file, flush it and rename it."""

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write bytes; for errors see :func:`~eomt_mm.fileio.writing.write_whole`."""
        write_whole(filepath, obj, sync=True)

    def put_text(self, obj: str, filepath: str | Path, encoding: str = 'utf-8') -> None:
        """Write text with the system's line ends; see :meth:`put`."""
        self.put(obj.replace('\n', os.linesep).encode(encoding), filepath)


def replace_local_backend() -> None:
    """Replace mmengine's backend 'local', used for paths without a prefix, and drop its cached instances."""
    fileio.register_backend('local', AtomicLocalBackend, force=True, prefixes='')
    for key in [key for key, backend in backend_instances.items() if type(backend) is LocalBackend]:
        del backend_instances[key]
