"""Result files of an inference: predictions in formats that other programs read, pictures and videos."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from eomt_mm.annotations.panoptic_png import write_panoptic_png
from eomt_mm.apis.inputs import ImageInput, Video
from eomt_mm.apis.results import Prediction
from eomt_mm.fileio.writing import write_whole, written_aside

IMAGE_INFO = 'image_info.json'
CODEC = 'mp4v'  # MPEG-4 Part 2: the only one for .mp4 that every OpenCV wheel writes
Append = Callable[[dict[str, Any]], None]


class PredictionFiles:
    """Write predictions image by image; NAME is that of :class:`~eomt_mm.apis.inputs.ImageInput`.

    - panoptic: ``panoptic_results.json`` and ``panoptic_results/NAME.png`` in COCO's panoptic format, with images and
      categories, so that they can serve as annotations too.
    - instance: ``instance_results.json`` in COCO's result format.
    - semantic: ``semantic_results/NAME.png``, class indices in 8 bits, or in 16 for more than 256 classes.
    - instance and semantic: ``image_info.json``, images and categories as COCO states them.
    - all of these json files contain ``info`` if it is given.

    An image's id is its name, as a number where it is one. A category's id is the class index, and one more for
    instance and panoptic, where 0 is void. A file gets its name when it is complete; after an interruption there is
    no json.

    Args:
        folder: made where missing.
        task: 'panoptic', 'instance' or 'semantic'.
        classes: names.
        num_things: classes below this index are things.
        info: of all results.
    """

    info_name = IMAGE_INFO

    def __init__(
        self, folder: Path, task: str, classes: Sequence[str], num_things: int, info: Mapping[str, Any] | None = None
    ) -> None:
        self.folder = folder
        self.task = task
        self.about = dict(info=dict(info)) if info else {}
        self.first_id = 0 if task == 'semantic' else 1
        self.categories: list[dict[str, Any]] = [
            dict(id=k + self.first_id, name=name) for k, name in enumerate(classes)
        ]
        if task != 'semantic':
            for k, category in enumerate(self.categories):
                category['isthing'] = int(k < num_things)
        self._label_type = np.uint8 if len(classes) <= 256 else np.uint16
        self._images: list[dict[str, Any]] = []
        self._ids: set[int | str] = set()
        self.append: Append = _nothing

    @contextmanager
    def opened(self) -> Iterator['PredictionFiles']:
        """Between the two ends of this context, :meth:`add` may be called."""
        results, info = self.folder / f'{self.task}_results.json', self.folder / self.info_name
        for earlier in (results, info):  # those of another call would not fit what is written now
            earlier.unlink(missing_ok=True)
        if self.task == 'panoptic':
            with _json_list(results, '{"annotations": ', lambda: f', {self.info_text()[1:]}') as self.append:
                yield self
            return
        if self.task == 'instance':
            with _json_list(results) as self.append:
                yield self
        else:
            yield self
        write_whole(info, self.info_text().encode())

    def add(self, image: ImageInput, prediction: Prediction) -> None:
        """Write a prediction, see :func:`~eomt_mm.apis.results.prediction_of`.

        Raises:
            OSError: naming the file.
        """
        segmentation, segments = prediction['segmentation'], prediction['segments_info']
        height, width = segmentation.shape
        image_id = self.new_id(image.name)
        self._images.append(dict(id=image_id, file_name=origin_of(image), height=height, width=width))
        png = self.folder / f'{self.task}_results' / f'{image.name}.png'
        if self.task == 'semantic':
            write_whole(png, cv2.imencode('.png', segmentation.astype(self._label_type))[1].tobytes())
        elif self.task == 'panoptic':
            write_panoptic_png(png, segmentation)
            entries = [
                dict(id=s['id'], category_id=s['label_id'] + self.first_id, score=s['score'], area=s['area'],
                     bbox=s['bbox'], iscrowd=0)
                for s in segments
            ]  # fmt: skip
            self.append(dict(image_id=image_id, file_name=f'{image.name}.png', segments_info=entries))
        else:
            for s in segments:
                self.append(
                    dict(image_id=image_id, category_id=s['label_id'] + self.first_id, segmentation=s['mask'],
                         score=s['score'], bbox=s['bbox'])
                )  # fmt: skip

    def new_id(self, name: str) -> int | str:
        """Id of an image: its name, as a number where it is one and not taken."""
        id_: int | str = int(name) if name.isdecimal() and int(name) not in self._ids else name
        self._ids.add(id_)
        return id_

    def info_text(self) -> str:
        """Json of images and categories."""
        return json.dumps({**self.about, 'images': self._images, 'categories': self.categories})


def origin_of(image: ImageInput) -> str:
    """Where an image is from: its file, or its name where there is none."""
    return image.name if image.path is None else image.path.as_posix()


def _nothing(entry: dict[str, Any]) -> None:
    raise RuntimeError('add() outside of opened()')


@contextmanager
def _json_list(path: Path, head: str = '', tail: Callable[[], str] = str) -> Iterator[Append]:
    """Append entries to a list in a json, none of which stays in memory.

    Args:
        path: of the json.
        head: text before the list.
        tail: gives the text after it, at the end.
    """
    with written_aside(path) as aside, open(aside, 'w', encoding='utf-8') as file:
        file.write(f'{head}[')
        separator = '\n'

        def append(entry: dict[str, Any]) -> None:
            nonlocal separator
            file.write(separator + json.dumps(entry))
            separator = ',\n'

        yield append
        file.write(f'\n]{tail()}\n')


class PictureFiles(ExitStack):
    """Write ``NAME.png``, and of a video ``NAME.mp4`` frame by frame; use it as a context manager.

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
        """Write the picture of an image, (H, W, 3) uint8 RGB; frames of a video have one size.

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
