"""Pictures of predictions in a folder: a PNG per image, a video per video."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import cv2
import numpy as np

from eomt_mm.apis.inputs import ImageInput, Video
from eomt_mm.fileio.writing import write_whole, written_aside

CODEC = 'mp4v'  # MPEG-4 Part 2: the only one for .mp4 that every OpenCV wheel writes


class PictureFiles(ExitStack):
    """Writes ``NAME.png``, and of a video ``NAME.mp4`` frame by frame; use it as a context manager.

    Every file appears under its name when it is complete: a video when its last frame was written, never where the work
    was broken off before.

    Args:
        folder: made where missing.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        self._video: Video | None = None
        self._writer: cv2.VideoWriter | None = None
        self._video_stack = self.enter_context(ExitStack())

    def add(self, image: ImageInput, picture: np.ndarray) -> None:
        """Writes the picture of an image, (H, W, 3) uint8 RGB; frames of a video have one size.

        Raises:
            OSError: naming the file.
        """
        if image.video is not self._video:
            self._video_stack.close()  # the video before is complete
            self._video = image.video
            if image.video is not None:
                path, size = self.folder / f'{image.video.name}.mp4', (picture.shape[1], picture.shape[0])
                self._writer = self._video_stack.enter_context(video_file(path, image.video.fps, size))
        bgr = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
        if self._video is not None and self._writer is not None:
            self._writer.write(bgr)
        else:
            write_whole(self.folder / f'{image.name}.png', cv2.imencode('.png', bgr)[1].tobytes())


@contextmanager
def video_file(path: Path, fps: float, size: tuple[int, int]) -> Iterator[cv2.VideoWriter]:
    """A writer of BGR frames of a size (width, height); the file is there when all went well.

    Raises:
        OSError: OpenCV cannot write it.
    """
    with written_aside(path) as aside:
        writer = cv2.VideoWriter(str(aside), cv2.VideoWriter.fourcc(*CODEC), fps, size)
        try:
            if not writer.isOpened():
                raise OSError(f'video {path} cannot be written with the codec {CODEC}: write pictures of its frames')
            yield writer
        finally:
            writer.release()
