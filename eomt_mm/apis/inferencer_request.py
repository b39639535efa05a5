"""What an inferencer is asked for, and what it gives per image."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from eomt_mm.apis.picture_files import PictureFiles
from eomt_mm.apis.prediction_files import PredictionFiles


class Result(NamedTuple):
    """What was found in an image.

    Attributes:
        name: of the image, see :class:`~eomt_mm.apis.inputs.ImageInput`.
        prediction: dictionary, see :func:`~eomt_mm.apis.results.prediction_of`, or with ``return_datasamples`` the
            host's sample, on the CPU.
        picture: (H, W, 3) uint8 RGB, with ``return_vis``; else None.
        video: name of the video whose frame it is, of models that follow videos; else None.
    """

    name: str
    prediction: Any
    picture: np.ndarray | None
    video: str | None = None


@dataclass(frozen=True)
class Request:
    """Arguments of :meth:`~eomt_mm.apis.inferencer.EoMTInferencer.stream`, checked."""

    batch_size: int
    on_error: str
    settings: dict[str, Any]
    score_thr: float
    files: PredictionFiles | None
    pictures: PictureFiles | None
    return_datasamples: bool
    return_vis: bool
    print_result: bool
    whole_video: bool
