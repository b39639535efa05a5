"""Group a user's inputs into videos: video files, and images that are the frames of a video."""

from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

from eomt_mm.apis.inputs import ImageInput, Names, Source, Video

SEQUENCE_FPS = 10.0  # for frames without a stated rate; YouTube-VIS has about 6, cameras have 25


@dataclass(frozen=True)
class ImageSequence(Video):
    """A video of images.

    Attributes:
        images: the frames, in their order.
    """

    images: tuple[ImageInput, ...] = ()

    @property
    def files(self) -> list[Path]:
        """Files that the video is read from."""
        return [file for image in self.images for file in image.files]

    def frames(self) -> Iterator[ImageInput]:
        """Yield the frames in order. A single image is not marked as a frame: its results are written as an image."""
        for image in self.images:
            yield replace(image, video=self) if self.num_frames > 1 else image


def as_videos(sources: Iterable[Source], fps: float | None = None) -> list[Video]:
    """Group sources into videos.

    Successive images from one folder are the frames of one video, as are successive arrays and PIL images; a single
    image is a video of one frame. A folder's video has the folder's name; a video of arrays is named after the first.

    Args:
        sources: in the order of the frames.
        fps: frames per second of videos of images; None: 10.

    Raises:
        ValueError: ``fps`` is not above 0.
    """
    fps = SEQUENCE_FPS if fps is None else fps
    if not 0 < fps < 1000:
        raise ValueError(f'fps={fps}: frames per second, above 0 and below 1000')
    names = Names()
    videos: list[Video] = []
    for _, group in groupby(sources, key=_place):
        members = list(group)
        videos += [replace(video, name=names.unique(video.name)) for video in members if isinstance(video, Video)]
        if images := [image for image in members if isinstance(image, ImageInput)]:
            videos.append(_sequence(images, fps, names))
    return videos


def _place(source: Source) -> Hashable:
    """Key that the images of one video have in common."""
    return type(source), source.path.parent if source.path else None


def _sequence(images: Sequence[ImageInput], fps: float, names: Names) -> ImageSequence:
    first, path = images[0], images[0].path
    if path is None:
        name = first.name
    elif len(images) == 1:
        name = Path(_below(first), path.stem).as_posix()
    else:
        name = _below(first) or path.parent.resolve().name
    name = names.unique(name)
    if len(images) == 1:
        frames = [replace(first, name=name)]
    else:
        own = Names()  # of the frames
        stems = [own.unique(image.path.stem if image.path else f'{k:06d}') for k, image in enumerate(images)]
        frames = [replace(image, name=f'{name}/{stem}') for image, stem in zip(images, stems, strict=True)]
    return ImageSequence(name, path.parent if path else None, fps, len(frames), tuple(frames))


def _below(image: ImageInput) -> str:
    """The image's folder relative to the input folder; '' if it is that folder, or no folder was given."""
    return image.name.rpartition('/')[0]
