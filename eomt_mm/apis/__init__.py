"""Entry points for users: configurations with everything derived from them, models, and inference."""

from eomt_mm import compat

compat.check_versions()  # before the first host is imported: a missing one is told in one message

from eomt_mm.apis.config import load_config  # noqa: E402
from eomt_mm.apis.inferencer import EoMTInferencer, init_inferencer  # noqa: E402
from eomt_mm.apis.model import init_model  # noqa: E402

__all__ = ['EoMTInferencer', 'init_inferencer', 'init_model', 'load_config']
