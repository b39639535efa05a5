"""User entry points: load configs, build models, run inference."""

from typing import Any

from eomt_mm import compat

compat.check_versions()  # before any host is imported: one message lists everything that is missing

from eomt_mm.apis.config import load_config  # noqa: E402
from eomt_mm.apis.inferencer import EoMTInferencer, init_inferencer  # noqa: E402
from eomt_mm.apis.model import init_model  # noqa: E402
from eomt_mm.public import load, names_of  # noqa: E402

PUBLIC = {
    'config': ('find_config', 'load_config'),
    'model': ('import_for', 'init_model', 'local_checkpoint'),
    'inferencer': ('EoMTInferencer', 'init_inferencer'),
    'calls': ('ColourOf', 'Loaded', 'Predicted', 'Request', 'Result', 'Results'),
    'classes': ('config_meta',),
    'inputs': (
        'IMAGE_SUFFIXES',
        'VIDEO_SUFFIXES',
        'ImageInput',
        'Names',
        'Source',
        'Video',
        'find_sources',
        'images_of',
        'report',
    ),
    'results': ('Prediction', 'prediction_of', 'summary'),
    'result_files': ('PictureFiles', 'PredictionFiles', 'origin_of'),
}
__all__ = ['EoMTInferencer', 'init_inferencer', 'init_model', 'load_config']
__all__ += [name for name in names_of(PUBLIC) if name not in __all__]


def __getattr__(name: str) -> Any:
    return load(__name__, PUBLIC, name)
