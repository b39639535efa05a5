"""The side that a spec describes."""

from eomt_mm.benchmarking.configs import is_video, side_config
from eomt_mm.benchmarking.models import is_ours
from eomt_mm.benchmarking.sides import Side, Spec
from eomt_mm.benchmarking.video import VideoSide


def build_side(spec: Spec) -> Side:
    """A side of images or of videos, whichever the config's model is for.

    Raises:
        ValueError: it is a host's model for videos; or what the model says of its config.
    """
    cfg = side_config(spec.config)
    if not is_video(cfg):
        return Side(spec)
    if not is_ours(cfg):
        raise ValueError(f"{cfg.model.type} is a host's model for videos: of these only eomt_mm's own are timed")
    return VideoSide(spec)
