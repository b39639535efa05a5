"""Small images and videos as files."""

from pathlib import Path

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
