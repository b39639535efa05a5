"""Write inference results: predictions in common formats, pictures and videos."""

import errno
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from eomt_mm.annotations.panoptic_png import write_panoptic_png
from eomt_mm.apis.earlier_results import mark_mp4, marked_png
from eomt_mm.apis.inputs import ImageInput, Source, Video
from eomt_mm.apis.results import Prediction
from eomt_mm.fileio.images import encode_png
from eomt_mm.fileio.writing import check_apart, write_whole, written_aside

IMAGE_INFO = 'image_info.json'
CODEC = 'mp4v'  # MPEG-4 Part 2: the only one for .mp4 that every OpenCV wheel writes
# Errors of one result, not of the disk: its name is too long or taken by a folder; None: of the codec.
OF_ONE = (None, errno.ENAMETOOLONG, errno.EISDIR, errno.ENOTDIR, errno.EEXIST)
Append = Callable[[dict[str, Any]], None]


class PredictionFiles:
    """Write predictions image by image; NAME is the name of the :class:`~eomt_mm.apis.inputs.ImageInput`.

    - panoptic: ``panoptic_results.json`` and ``panoptic_results/NAME.png`` in COCO's panoptic format, with images and
      categories, so that they can also be used as annotations.
    - instance: ``instance_results.json`` in COCO's result format.
    - semantic: ``semantic_results/NAME.png``, class indices in 8 bits, or in 16 bits for more than 256 classes.
    - instance and semantic: ``image_info.json``, images and categories in COCO's format.
    - ``panoptic_results.json`` and ``image_info.json`` contain ``info`` if it is given.

    An image's id is its name, converted to a number if it is one. A category's id is the class index for semantic, and
    the class index plus one for instance and panoptic, where 0 is void. Every file is written under a temporary name
    and renamed when complete: after an interruption there is no JSON.

    Args:
        folder: created if missing.
        task: 'panoptic', 'instance' or 'semantic'.
        classes: class names.
        num_things: classes below this index are things.
        info: COCO's ``info`` entry.
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

    @property
    def _maps(self) -> Path:
        return self.folder / f'{self.task}_results'

    def targets(self, source: Source) -> Iterable[Path]:
        """Files that the results of a source may replace."""
        if isinstance(source, Video):
            return (self._maps / source.name).glob('*')
        return [self._maps / f'{source.name}.png']

    @contextmanager
    def opened(self) -> Iterator['PredictionFiles']:
        """Open the files; within this context, :meth:`add` may be called."""
        results, info = self.folder / f'{self.task}_results.json', self.folder / self.info_name
        for earlier in (results, info):  # files of an earlier call would not match the new ones
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
        """Write a prediction; see :func:`~eomt_mm.apis.results.prediction_of`.

        Raises:
            OSError: a file cannot be written; the message names it.
            ValueError: a side of the image is too long for a PNG.
        """
        segmentation, segments = prediction['segmentation'], prediction['segments_info']
        height, width = segmentation.shape
        png = self._maps / f'{image.name}.png'
        if self.task == 'semantic':
            write_whole(png, encode_png(segmentation.astype(self._label_type), f'label map {png}'))
        elif self.task == 'panoptic':
            write_panoptic_png(png, segmentation)
        image_id = self.new_id(image.name)
        self._images.append(dict(id=image_id, file_name=origin_of(image), height=height, width=width))
        if self.task == 'panoptic':
            entries = [
                dict(id=s['id'], category_id=s['label_id'] + self.first_id, score=s['score'], area=s['area'],
                     bbox=s['bbox'], iscrowd=0)
                for s in segments
            ]  # fmt: skip
            self.append(dict(image_id=image_id, file_name=f'{image.name}.png', segments_info=entries))
        elif self.task == 'instance':
            for s in segments:
                self.append(
                    dict(image_id=image_id, category_id=s['label_id'] + self.first_id, segmentation=s['mask'],
                         score=s['score'], bbox=s['bbox'])
                )  # fmt: skip

    def new_id(self, name: str) -> int | str:
        """Id of an image: its name, converted to a number if it is one and that number is not taken."""
        id_: int | str = int(name) if name.isdecimal() and int(name) not in self._ids else name
        self._ids.add(id_)
        return id_

    def info_text(self) -> str:
        """JSON text of the images and categories."""
        return json.dumps({**self.about, 'images': self._images, 'categories': self.categories})


def origin_of(image: ImageInput) -> str:
    """Origin of an image: its path, or its name if it has no file."""
    return image.name if image.path is None else image.path.as_posix()


def _nothing(entry: dict[str, Any]) -> None:
    raise RuntimeError('add() outside of opened()')


@contextmanager
def _json_list(path: Path, head: str = '', tail: Callable[[], str] = str) -> Iterator[Append]:
    """Write a list to a JSON file entry by entry, without keeping the entries in memory.

    Args:
        path: JSON file.
        head: text before the list.
        tail: function that returns the text after the list, called at the end.
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
    """Write pictures as ``NAME.png``, and a video's frames to ``NAME.mp4``; use it as a context manager.

    Every file is written under a temporary name and renamed when complete. A video is complete when its last frame is
    written; an interrupted one leaves no file. All files carry a mark (:mod:`~eomt_mm.apis.earlier_results`).

    Args:
        folder: created if missing.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        self._video: Video | None = None
        self._size = (0, 0)
        self._writer: cv2.VideoWriter | None = None
        self._video_stack = self.enter_context(ExitStack())

    def targets(self, source: Source) -> Iterable[Path]:
        """Files that the pictures of a source may replace."""
        return [self.folder / f'{source.name}{end}' for end in ('.png', '.mp4')]

    def add(self, image: ImageInput, picture: np.ndarray) -> None:
        """Write the picture of an image, (H, W, 3) uint8 RGB; frames get the size of the first one of their video.

        Raises:
            OSError: the file cannot be written; the message names it. Later frames of the same video are left out.
            ValueError: a side of the picture is too long for a PNG.
        """
        if image.video is not self._video:
            self._writer = None
            self._video_stack.close()  # the previous video is complete
            self._video, self._size = image.video, (picture.shape[1], picture.shape[0])
            if image.video is not None:
                file = video_file(self.folder / f'{image.video.name}.mp4', image.video.fps, self._size)
                self._writer = self._video_stack.enter_context(file)
        bgr = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
        if image.video is None:
            path = self.folder / f'{image.name}.png'
            write_whole(path, marked_png(encode_png(bgr, f'picture {path}')))
        elif self._writer is not None:
            self._writer.write(bgr if bgr.shape[1::-1] == self._size else cv2.resize(bgr, self._size))


@contextmanager
def video_file(path: Path, fps: float, size: tuple[int, int]) -> Iterator[cv2.VideoWriter]:
    """Open a video writer for BGR frames of a size (width, height); the file appears only if no error occurs.

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
        mark_mp4(aside)


def check_results_apart(
    sources: Sequence[Source], files: PredictionFiles | None, pictures: PictureFiles | None
) -> None:
    """Refuse results that would replace inputs.

    Raises:
        NotADirectoryError: the folder of results is a file, or below one.
        ValueError: a result has the place of an input.
    """
    for writer in (one for one in (files, pictures) if one is not None):
        for place in (writer.folder, *writer.folder.parents):
            if place.exists() and not place.is_dir():
                raise NotADirectoryError(f'results cannot be written to {writer.folder}: {place} is a file')
        if writer.folder.is_dir():  # otherwise there is nothing to replace
            targets = (target for source in sources for target in writer.targets(source))
            check_apart(targets, (file for source in sources for file in source.files))
