"""Video data sets, clips of consecutive frames and their augmentation; importing it registers them."""

import eomt_mm  # noqa: F401  isort: skip  makes the hosts importable

from videomt.datasets import (  # noqa: F401
    clips,
    coco_clips,
    loading,
    mixing,
    run_lengths,
    transforms,
    vipseg,
    vspw,
    youtube_vis,
)
