"""Local files are written whole or not at all, by whatever of mmengine writes them.

mmengine's own backend truncates the old file and then writes: a run that is killed in between, or whose disk is full,
has neither the old content nor the new one.
"""

import os
import re
import uuid
from pathlib import Path

from mmengine import fileio
from mmengine.fileio import LocalBackend
from mmengine.fileio.io import backend_instances

# What is being written to NAME is in .NAME.PROCESS-RANDOM.part beside it; of a long NAME only the end, since file
# systems allow 255 bytes.
NAME_LENGTH = 40
CHECKPOINT_PART = re.compile(r'\..*\.pth\.\d+-[0-9a-f]{8}\.part')


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
        aside = target.with_name(f'.{target.name[-NAME_LENGTH:]}.{os.getpid()}-{uuid.uuid4().hex[:8]}.part')
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


def remove_unfinished(folder: str | Path) -> None:
    """Removes what killed processes left of checkpoints in ``folder``. No other run may be writing there."""
    for entry in Path(folder).glob('.*.part'):
        if CHECKPOINT_PART.fullmatch(entry.name) and entry.is_file():
            entry.unlink()


def replace_local_backend() -> None:
    """Registers the backend; mmengine keeps the instances of whoever asked before, which are dropped."""
    fileio.register_backend('local', AtomicLocalBackend, force=True, prefixes='')
    for key in [key for key, backend in backend_instances.items() if type(backend) is LocalBackend]:
        del backend_instances[key]


replace_local_backend()
