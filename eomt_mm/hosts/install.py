"""One explicit call that makes mmengine and the hosts read and write files safely."""

from typing import Any

import mmcv.transforms
from mmdet.registry import TRANSFORMS as MMDET_TRANSFORMS
from mmseg.registry import TRANSFORMS as MMSEG_TRANSFORMS

from eomt_mm.hosts.checkpoint_reading import allow_checkpoint_globals, read_checkpoints_safely
from eomt_mm.hosts.local_backend import replace_local_backend
from eomt_mm.hosts.zip_backend import register_zip_backend


def install() -> None:
    """Change how mmengine and the hosts treat files in this process; a second call changes nothing.

    - Paths ``zip://...`` are read from zip files in place, by all of ``mmengine.fileio``.
    - Local files are written whole or not at all.
    - ``torch.load`` reads mmengine's own checkpoints with ``weights_only``: exactly their types are allowed.
    - Checkpoints are read by our reader, whatever their address: nothing in them is executed.
    - ``LoadImageFromFile`` in pipelines of mmdet and mmseg is our checked :class:`~eomt_mm.datasets.loading.LoadImage`.

    :mod:`eomt_mm.registry` calls it, and mmengine imports that module at the first ``type='eomt_mm.NAME'``; so it holds
    in our tools and under the hosts' own tools, inferencers and ``mim train`` alike.
    """
    register_zip_backend()
    replace_local_backend()
    allow_checkpoint_globals()
    read_checkpoints_safely()
    load_images_checked()


def load_images_checked() -> None:
    """Make ``type='LoadImageFromFile'`` in pipelines of mmdet and mmseg our `LoadImage`, a subclass of mmcv's.

    The hosts' inferencers look for that very name and build it anew. With it, evaluation and inferencers name damaged
    files and limit pixels as training does.
    """
    for registry in (MMDET_TRANSFORMS, MMSEG_TRANSFORMS):
        registry.register_module('LoadImageFromFile', module=_load_image_from_file, force=True)


def _load_image_from_file(**arguments: Any) -> mmcv.transforms.LoadImageFromFile:
    if arguments.get('file_client_args') is not None:  # deprecated; stock configs of old may have it
        return mmcv.transforms.LoadImageFromFile(**arguments)
    from eomt_mm.datasets.loading import LoadImage  # it registers, and so needs the registry that is being imported

    return LoadImage(**arguments)
