"""EoMT (CVPR 2025, "Your ViT is Secretly an Image Segmentation Model") for OpenMMLab.

Importing the package makes the host stack importable (see ``eomt_mm.compat``); it imports no host itself.
"""

from eomt_mm import compat

__version__ = '0.1.0'

compat.make_hosts_importable()
