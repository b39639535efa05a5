"""Local files are written whole or not at all, by whatever of mmengine writes them.

mmengine's own backend truncates the old file and then writes: a run that is killed in between, or whose disk is full,
has neither the old content nor the new one.
"""

import os
from pathlib import Path

from mmengine import fileio
from mmengine.fileio import LocalBackend
from mmengine.fileio.io import backend_instances

from eomt_mm.fileio.leftovers import part_of


class AtomicLocalBackend(LocalBackend):
    """mmengine's local backend, with ``put`` and ``put_text`` that write aside, flush to the disk and rename.

    Importing this module registers it as 'local' and for paths without a prefix, in place of mmengine's.
    """

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Writes bytes; folders are made where missing.

        Raises:
            OSError: naming ``filepath``. What was there before is still there, and nothing else is left.
        """
        # Through links, so that they stay; what is no file (/dev/stdout, a pipe) cannot be replaced by one.
        target = Path(os.path.realpath(filepath))
        if target.exists() and not target.is_file():
            return super().put(obj, filepath)
        aside = part_of(target)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with open(aside, 'xb') as file:
                file.write(obj)
                file.flush()
                os.fsync(file.fileno())
            os.replace(aside, target)
        except BaseException as error:
            aside.unlink(missing_ok=True)
            if isinstance(error, OSError) and error.filename in (None, str(aside)):
                raise OSError(error.errno, error.strerror, str(filepath)) from error
            raise

    def put_text(self, obj: str, filepath: str | Path, encoding: str = 'utf-8') -> None:
        """Writes text, see :meth:`put`; ends of lines are the system's."""
        self.put(obj.replace('\n', os.linesep).encode(encoding), filepath)


def replace_local_backend() -> None:
    """Registers the backend; mmengine keeps the instances of whoever asked before, which are dropped."""
    fileio.register_backend('local', AtomicLocalBackend, force=True, prefixes='')
    for key in [key for key, backend in backend_instances.items() if type(backend) is LocalBackend]:
        del backend_instances[key]


replace_local_backend()
