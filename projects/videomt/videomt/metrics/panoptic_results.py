"""Write result files in VIPSeg's format: a folder of panoptic PNGs per video, and one JSON."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from mmdet.structures import DetDataSample
from mmengine.logging import print_log

from eomt_mm.annotations.panoptic_png import write_panoptic_png
from eomt_mm.evaluation.panoptic_image import INSTANCE_OFFSET
from eomt_mm.fileio.writing import write_whole


@dataclass
class VideoFiles:
    """Result files of a video.

    Attributes:
        name: of the video, its ``video_id``.
        frames: entries of the JSON.
        ids: segment id in the PNGs of each code (label + 1000 * id), the same in all frames.
    """

    name: str
    frames: list[dict[str, Any]] = field(default_factory=list)
    ids: dict[int, int] = field(default_factory=dict)


def frame_file(frame: DetDataSample) -> str:
    """Name of a frame's PNG: the image's name, or the frame number if there is no ``img_path``."""
    path = frame.metainfo.get('img_path')
    return f'{Path(path).stem if path else format(frame.metainfo["frame_id"], "05d")}.png'


class PanopticResults:
    """Write ``pan_pred/<video>/<frame>.png`` (id = R + 256 G + 65536 B, 0 = void) and ``pred.json``.

    In each video, ids count from 1, and a segment keeps its id. Every file gets its final name when it is complete. The
    JSON, which lists the segments of every frame, is written last; an earlier evaluation's JSON is removed first.

    Args:
        out_dir: folder.
    """

    def __init__(self, out_dir: str | os.PathLike) -> None:
        self.out_dir = Path(out_dir)

    def write(self, files: VideoFiles, frame: DetDataSample, panoptic: np.ndarray, meta: Mapping[str, Any]) -> None:
        """Write the PNG of a frame.

        Args:
            files: files of its video; the frame is added.
            frame: gives the file name.
            panoptic: (H, W), label + 1000 * id.
            meta: dataset_meta with ``category_ids`` of the labels; by default label + 1.
        """
        if not files.frames:
            (self.out_dir / 'pred.json').unlink(missing_ok=True)
        category_ids = meta.get('category_ids') or range(1, len(meta['classes']) + 1)
        codes, place, areas = np.unique(panoptic, return_inverse=True, return_counts=True)
        segments, numbers = [], []
        for code, area in zip(codes.tolist(), areas.tolist(), strict=True):
            label = code % INSTANCE_OFFSET
            if label >= len(meta['classes']):
                numbers.append(0)
                continue
            numbers.append(files.ids.setdefault(code, len(files.ids) + 1))
            segments.append({'id': numbers[-1], 'category_id': category_ids[label], 'area': area})
        name = frame_file(frame)
        if any(name == written['file_name'] for written in files.frames):
            raise ValueError(
                f'video {files.name} has two frames {name}, such as {frame.metainfo.get("img_path")}: rename one'
            )
        ids = np.array(numbers, np.int32)[place].reshape(panoptic.shape)
        write_panoptic_png(self.out_dir / 'pan_pred' / files.name / name, ids)
        files.frames.append({'file_name': name, 'segments_info': segments})

    def finish(self, videos: Sequence[VideoFiles]) -> None:
        """Write the JSON."""
        content = {'annotations': [{'video_id': video.name, 'annotations': video.frames} for video in videos]}
        write_whole(self.out_dir / 'pred.json', json.dumps(content).encode())
        print_log(f'panoptic results of {len(videos)} videos are in {self.out_dir}', logger='current')
