"""Entry points for users: configurations with everything derived from them, and models."""

from eomt_mm.apis.config import load_config
from eomt_mm.apis.model import init_model

__all__ = ['init_model', 'load_config']
