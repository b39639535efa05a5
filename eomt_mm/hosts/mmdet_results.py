"""Results that mmdet's inferencer cannot return, write or draw: panoptic maps, predictions of arrays, empty maps."""

from typing import Any

import numpy as np
from mmdet.apis import DetInferencer, det_inferencer
from mmdet.evaluation import INSTANCE_OFFSET
from mmdet.structures import DetDataSample
from mmdet.visualization import DetLocalVisualizer
from mmengine.structures import PixelData

VOID = 0  # value of void in panoptic PNGs


def complete_mmdet_results() -> None:
    """Replace what ends in errors in ``DetInferencer`` and ``DetLocalVisualizer``; a second call has no effect.

    - The inferencer returns and writes panoptic maps. It imports the encoding from panopticapi, which needs numpy 1.
    - It writes predictions of arrays, which have a number for a name: their image path is None, not missing.
    - The visualizer draws panoptic maps without any segment, as the image. It leaves out labels without a name, for
      without a checkpoint the inferencer gives every model the 80 names of COCO.
    """
    if det_inferencer.VOID is None:
        det_inferencer.VOID, det_inferencer.id2rgb = VOID, _id_colours
    if DetInferencer.pred2dict.__module__ != __name__:
        DetInferencer.pred2dict = _without_missing_path(DetInferencer.pred2dict)
        DetLocalVisualizer._draw_panoptic_seg = _without_segments(DetLocalVisualizer._draw_panoptic_seg)


def _id_colours(ids: np.ndarray) -> np.ndarray:
    """Encode ids (H, W) as colours R, G, B (H, W, 3) with the id R + 256 G + 65536 B."""
    return np.stack([ids, ids >> 8, ids >> 16], axis=-1) & 255


def _without_missing_path(pred2dict: Any) -> Any:
    def named(self: DetInferencer, data_sample: DetDataSample, pred_out_dir: str = '') -> dict[str, Any]:
        if data_sample.get('img_path', '') is None:
            del data_sample.img_path
        result: dict[str, Any] = pred2dict(self, data_sample, pred_out_dir)
        return result

    return named


def _without_segments(draw: Any) -> Any:
    def drawn(self: Any, image: np.ndarray, panoptic_seg: PixelData, classes: Any, palette: Any) -> np.ndarray:
        if 'label_names' not in panoptic_seg:
            codes = np.asarray(panoptic_seg.sem_seg)
            nameless = codes % INSTANCE_OFFSET >= len(classes)
            if nameless.all():
                return image
            panoptic_seg = PixelData(sem_seg=np.where(nameless, len(classes), codes))
        picture: np.ndarray = draw(self, image, panoptic_seg, classes, palette)
        return picture

    return drawn
