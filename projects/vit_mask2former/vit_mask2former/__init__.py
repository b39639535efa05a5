"""Mask2Former on a plain ViT, and its step-by-step simplification to EoMT. Importing it registers the models."""

import eomt_mm  # noqa: F401  isort: skip  it makes mmdet importable
from vit_mask2former import detector, masked_eomt, pyramid  # noqa: F401
