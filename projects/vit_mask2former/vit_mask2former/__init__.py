"""Mask2Former on a plain ViT, and the steps from there to EoMT; importing it registers the models with mmdet."""

import eomt_mm  # noqa: F401  isort: skip  it makes mmdet importable
from vit_mask2former import detector, masked_eomt, pyramid  # noqa: F401
