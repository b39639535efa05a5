"""Load masks, labels and ids of the instances or segments of a frame.

All transforms add gt_masks (mmdet's BitmapMasks, N at the file's size), gt_bboxes_labels (N,), int64, gt_instances_ids
(N,), int32, and gt_ignore_flags (N,), bool, true for crowds. Boxes are not loaded, since the model needs none.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from mmcv.transforms import BaseTransform
from mmdet.structures.mask import BitmapMasks
from mmengine import fileio

from eomt_mm.annotations.masks import decode, normalise
from eomt_mm.annotations.panoptic_png import check_present, read_panoptic_png
from eomt_mm.annotations.segments import read_map
from eomt_mm.datasets.segment_maps import check_size
from eomt_mm.registry import TRANSFORMS

Results = dict[str, Any]


def store_tracks(
    results: Results,
    masks: Sequence[np.ndarray],
    labels: Sequence[int],
    ids: Sequence[int],
    size: tuple[int, int],
    crowds: Sequence[bool] | None = None,
) -> None:
    """Add masks, labels, ids and crowd flags to ``results``; see the module's docstring.

    Args:
        results: of a frame, changed in place.
        masks: N of (H, W), bool or 0 and 1.
        labels: N class indices.
        ids: N ids, constant throughout the video.
        size: (H, W).
        crowds: N; None: no crowds.
    """
    results['gt_masks'] = BitmapMasks([np.asarray(mask, np.uint8) for mask in masks], *size)
    results['gt_bboxes_labels'] = np.array(labels, dtype=np.int64)
    results['gt_instances_ids'] = np.array(ids, dtype=np.int32)
    results['gt_ignore_flags'] = np.zeros(len(labels), bool) if crowds is None else np.array(crowds, dtype=bool)


def _size(results: Results) -> tuple[int, int]:
    """(height, width) of the frame before any resizing."""
    height, width = results['ori_shape'][:2]
    return height, width


@TRANSFORMS.register_module()
class LoadTracks(BaseTransform):
    """Load the instances of a frame of `TrackDataset` or `CocoClips`.

    Args:
        with_crowds: keep crowds, which metrics ignore; training drops them.

    Raises:
        ValueError: a mask cannot be decoded or differs in size from the frame.
    """

    def __init__(self, with_crowds: bool = False) -> None:
        self.with_crowds = with_crowds

    def transform(self, results: Results) -> Results:
        """Load ``results['instances']``."""
        size = _size(results)
        kept = [one for one in results.get('instances', ()) if self.with_crowds or not one['ignore_flag']]
        found = [(one, normalise(one['mask'], size, _name(one, results))) for one in kept]
        # An instance without an outline is not visible in this frame.
        kept, masks = [one for one, mask in found if mask], [decode(mask, size) for _, mask in found if mask]
        labels, ids = [one['bbox_label'] for one in kept], [one['instance_id'] for one in kept]
        store_tracks(results, masks, labels, ids, size, [bool(one['ignore_flag']) for one in kept])
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}(with_crowds={self.with_crowds})'


def _name(instance: dict[str, Any], results: Results) -> str:
    """Describe a mask for messages, with its file and annotation if the data set states them."""
    return f'{instance.get("source", "an instance")} in frame {results["img_path"]}'


@TRANSFORMS.register_module()
class LoadVIPSegTracks(BaseTransform):
    """Load the segments of a frame of `VIPSeg`: one per segment id, which is the track id.

    Args:
        backend_args: arguments of mmengine's file backend.

    Raises:
        FileNotFoundError: the PNG does not exist.
        ValueError: the PNG is not 8-bit RGB, is damaged, or differs in size from the frame.
    """

    def __init__(self, backend_args: dict | None = None) -> None:
        self.backend_args = backend_args

    def transform(self, results: Results) -> Results:
        """Load ``results['seg_map_path']``, if there is one."""
        path, size = results.get('seg_map_path'), _size(results)
        if path is None:
            store_tracks(results, [], [], [], size)
            return results
        id_map = read_panoptic_png(path, lambda name: fileio.get(name, backend_args=self.backend_args))
        check_size(path, id_map.shape, {'ori_shape': size, 'img_path': results['img_path']})
        segments = [(segment, id_map == segment['id']) for segment in results['segments_info']]
        ids = [segment['id'] for segment, _ in segments]
        check_present(path, ids, [bool(mask.any()) for _, mask in segments])
        segments = [(segment, mask) for segment, mask in segments if mask.any()]
        labels, ids = [segment['label'] for segment, _ in segments], [segment['id'] for segment, _ in segments]
        store_tracks(results, [mask for _, mask in segments], labels, ids, size)
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}(backend_args={self.backend_args})'


@TRANSFORMS.register_module()
class LoadVSPWTracks(BaseTransform):
    """Load the classes of a frame of `VSPW`: one mask per class that occurs; its label is the track id.

    Args:
        backend_args: arguments of mmengine's file backend.

    Raises:
        FileNotFoundError: the mask does not exist.
        ValueError: the mask is not a grey PNG, is damaged, or differs in size from the frame.
    """

    def __init__(self, backend_args: dict | None = None) -> None:
        self.backend_args = backend_args

    def transform(self, results: Results) -> Results:
        """Load ``results['seg_map_path']``, if there is one."""
        path, size = results.get('seg_map_path'), _size(results)
        if path is None:
            store_tracks(results, [], [], [], size)
            return results
        # Mode P as well: a palette does not change the values.
        values = read_map(path, ('L', 'P'), 'a grey PNG of class numbers is', self._content)
        check_size(path, values.shape, {'ori_shape': size, 'img_path': results['img_path']})
        present = set(np.unique(values).tolist())
        labels = [label for label, category in enumerate(results['category_ids']) if category + 1 in present]
        masks = [values == results['category_ids'][label] + 1 for label in labels]
        store_tracks(results, masks, labels, labels, size)
        return results

    def _content(self, path: str) -> bytes:
        content: bytes = fileio.get(path, backend_args=self.backend_args)
        return content

    def __repr__(self) -> str:
        return f'{type(self).__name__}(backend_args={self.backend_args})'
