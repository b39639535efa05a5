"""What belongs to one call of an inferencer: its arguments, results and files. Calls may run at the same time."""

from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from eomt_mm.apis.inputs import ImageInput, report
from eomt_mm.apis.result_files import OF_ONE, PictureFiles, PredictionFiles
from eomt_mm.apis.results import Prediction
from eomt_mm.visualization import Colour

Item: TypeAlias = dict[str, Any]
Loaded: TypeAlias = tuple[ImageInput, np.ndarray]  # pixels (H, W, 3), uint8, BGR
ColourOf: TypeAlias = Callable[[int, int], Colour]  # from id and class index of a segment
# Images, their samples, and the colours of their segments if they are not those of their classes.
Predicted: TypeAlias = tuple[list[Loaded], list[Any], ColourOf | None]


class Result(NamedTuple):
    """Result of one image.

    Attributes:
        name: name of the image, see :class:`~eomt_mm.apis.inputs.ImageInput`.
        prediction: dictionary, see :func:`~eomt_mm.apis.results.prediction_of`, or with ``return_datasamples`` the
            host's sample, on the CPU.
        picture: (H, W, 3) uint8 RGB, with ``return_vis``; else None.
        video: for video models, name of the video that the frame belongs to; else None.
    """

    name: str
    prediction: Any
    picture: np.ndarray | None
    video: str | None = None


class Results(Iterator[Result]):
    """Results of a call of :meth:`EoMTInferencer.stream`, in input order.

    Attributes:
        skipped: files that could not be read so far.
    """

    def __init__(self, results: Generator[Result, None, None], skipped: list[Path]) -> None:
        self._results = results
        self.skipped = skipped

    def __next__(self) -> Result:
        return next(self._results)

    def close(self) -> None:
        """Leave out the remaining inputs; files that are not complete are deleted."""
        self._results.close()


@dataclass(frozen=True)
class Request:
    """Checked arguments of one call of :meth:`EoMTInferencer.stream`, and what belongs to this call alone.

    ``skipped`` collects the files that are skipped; None: errors are raised. ``settings`` replace the head's rules.
    ``options`` holds the arguments of a subclass.
    """

    batch_size: int
    skipped: list[Path] | None
    settings: dict[str, Any]
    score_thr: float
    files: PredictionFiles | None
    pictures: PictureFiles | None
    return_datasamples: bool
    return_vis: bool
    print_result: bool
    options: Mapping[str, Any]


def write_files(image: ImageInput, prediction: Prediction, picture: np.ndarray | None, request: Request) -> None:
    """Write the files of an image; report a result whose name or size cannot be written."""
    writers = [partial(request.files.add, image, prediction)] if request.files else []
    if request.pictures and picture is not None:
        writers.append(partial(request.pictures.add, image, picture))
    try:
        for write in writers:
            write()
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno not in OF_ONE:
            raise
        report(error, image.origin, request.skipped)
