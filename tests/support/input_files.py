"""Small images and videos as files."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np

IMAGE = np.random.default_rng(0).integers(0, 256, (8, 12, 3), dtype=np.uint8)


def write(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), IMAGE)
    return path


def write_video(path: Path, count: int = 5, fps: float = 7) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*'mp4v'), fps, (32, 24))
    for k in range(count):
        writer.write(np.full((24, 32, 3), 40 * k, np.uint8))
    writer.release()
    return path


def touch_listed(folder: Path, data: Any, png_folder: Path | None = None) -> None:
    """Make empty files for what a COCO json lists, as data sets look for: images and, of panoptic data, PNGs."""
    if not isinstance(data, dict):
        return
    names = {image.get('id'): image['file_name'] for image in data.get('images', ()) if 'file_name' in image}
    paths = [folder / name for name in names.values()]
    if png_folder is not None:
        for entry in data.get('annotations', ()):
            name = names.get(entry.get('image_id'), 'none')
            paths.append(png_folder / (entry.get('file_name') or str(Path(name).with_suffix('.png'))))
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def write_cut_video(path: Path, share: float, count: int = 40) -> Path:
    """A video (.avi) that states ``count`` frames, and holds about ``share`` of them."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*'MJPG'), 10, (64, 48))
    for _ in range(count):
        writer.write(np.zeros((48, 64, 3), np.uint8))
    writer.release()
    content = path.read_bytes()
    first, last = content.find(b'movi') + 4, content.find(b'idx1')
    path.write_bytes(content[: first + int(share * (last - first))])
    return path
