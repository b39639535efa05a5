"""VidEoMT: EoMT on video, with queries passed from frame to frame. Importing it registers its parts."""

import eomt_mm  # noqa: F401  isort: skip  makes the hosts importable
import videomt.datasets  # noqa: F401
from videomt import detector, inferencer  # noqa: F401
from videomt.metrics import mvc, stq, vis_ap, vpq  # noqa: F401
