"""Install safe reading and writing of files, and complete results, in mmengine and the hosts, with one call."""

from typing import Any

import mmcv.transforms
from mmdet.registry import TRANSFORMS as MMDET_TRANSFORMS
from mmseg.registry import TRANSFORMS as MMSEG_TRANSFORMS

from eomt_mm.hosts.checkpoint_reading import allow_checkpoint_globals, read_checkpoints_safely
from eomt_mm.hosts.local_backend import replace_local_backend
from eomt_mm.hosts.mmdet_results import complete_mmdet_results
from eomt_mm.hosts.zip_backend import register_zip_backend


def install() -> None:
    """Change how mmengine and the hosts read and write files in this process; a second call has no effect.

    - All of ``mmengine.fileio`` reads ``zip://...`` paths from zip files without unpacking them.
    - Local files are written atomically: either completely or not at all.
    - ``torch.load`` reads mmengine's own checkpoints with ``weights_only``: exactly their types are allowed.
    - Our reader reads all checkpoints, local or remote, and executes nothing in them.
    - ``LoadImageFromFile`` in pipelines of mmdet and mmseg is our checked :class:`~eomt_mm.datasets.loading.LoadImage`.
    - mmdet's inferencer returns, writes and draws all results: see
      :func:`~eomt_mm.hosts.mmdet_results.complete_mmdet_results`.

    :mod:`eomt_mm.registry` calls this function, and mmengine imports that module at the first ``type='eomt_mm.NAME'``.
    The changes therefore apply in our tools as well as in the hosts' own tools, inferencers and ``mim train``.
    """
    register_zip_backend()
    replace_local_backend()
    allow_checkpoint_globals()
    read_checkpoints_safely()
    load_images_checked()
    complete_mmdet_results()


def load_images_checked() -> None:
    """Register our `LoadImage`, a subclass of mmcv's transform, as ``LoadImageFromFile`` in mmdet and mmseg.

    The hosts' inferencers look for exactly this name and rebuild the transform. Under this name, evaluation and
    inferencers also report damaged files by name and limit the number of pixels, as training does.
    """
    for registry in (MMDET_TRANSFORMS, MMSEG_TRANSFORMS):
        registry.register_module('LoadImageFromFile', module=_load_image_from_file, force=True)


def _load_image_from_file(**arguments: Any) -> mmcv.transforms.LoadImageFromFile:
    if arguments.get('file_client_args') is not None:  # deprecated, but old configs of the hosts may have it
        return mmcv.transforms.LoadImageFromFile(**arguments)
    from eomt_mm.datasets.loading import LoadImage  # deferred: it imports the registry, which imports this module

    return LoadImage(**arguments)
