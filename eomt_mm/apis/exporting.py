"""Prepare a model for export: its network, and its metadata (classes, geometry, thresholds)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from eomt_mm import __version__
from eomt_mm.core.geometry import Padding, Size, as_size
from eomt_mm.core.head import EoMTHead
from eomt_mm.export.metadata import FORMAT, INPUT
from eomt_mm.export.network import ExportNetwork
from eomt_mm.export.postprocess import Logits, PanopticMap, Postprocess, SemanticLabels, TopInstances
from eomt_mm.models.heads import EoMTDetHead, EoMTSegHead
from eomt_mm.models.segmentors import EoMTDetector, EoMTSegmentor
from eomt_mm.visualization import class_colours


def head_of(model: nn.Module) -> EoMTSegHead | EoMTDetHead:
    """The head of a model that :func:`~eomt_mm.apis.init_model` built.

    Raises:
        ValueError: the model is not an EoMT.
    """
    if isinstance(model, EoMTSegmentor):
        return model.decode_head
    if isinstance(model, EoMTDetector):
        return model.panoptic_head
    raise ValueError(f'model {type(model).__name__} is not exported here: give a config of EoMT')


def task_of(head: EoMTHead) -> str:
    """Task of a head: 'semantic', 'instance' or 'panoptic'."""
    return head.task if isinstance(head, EoMTDetHead) else 'semantic'


def postprocess_of(head: EoMTHead) -> Postprocess:
    """The post-processing of the head's task, with its thresholds."""
    if not isinstance(head, EoMTDetHead):
        return SemanticLabels()
    if head.task == 'instance':
        return TopInstances(head.max_per_image)
    return PanopticMap(head.num_things_classes, head.score_thr, head.overlap_thr)


def network_of(
    model: Any, size: int | Sequence[int] | None = None, with_postprocess: bool = False, half: bool = False
) -> ExportNetwork:
    """The exportable network of a model.

    Args:
        model: see :func:`head_of`.
        size: side or (height, width) of the input in pixels; None: that of the config.
        with_postprocess: put the post-processing into the graph.
        half: run in float16.

    Raises:
        ValueError: the model is not an EoMT, or cannot take this size.
    """
    head, preprocessor = head_of(model), model.data_preprocessor
    fitting: Size = preprocessor.img_size if size is None else as_size(size)
    mean, std = (values.flatten().tolist() for values in (preprocessor.mean, preprocessor.std))
    return ExportNetwork(model.backbone, head, fitting, mean, std, postprocess_of(head), with_postprocess, half)


def metadata_of(
    model: Any, network: ExportNetwork, weights: str | Path | None, dynamic_batch: bool, quantised: str | None = None
) -> dict[str, Any]:
    """Metadata of an exported file, with everything needed to use it, in JSON types.

    Args:
        model: model with ``dataset_meta``.
        network: what :func:`network_of` made from the model.
        weights: checkpoint; None: random weights.
        dynamic_batch: whether the file takes batches of any size.
        quantised: 'int8' if the file is written with calibration images; None: it is not quantised.
    """
    head, meta = head_of(model), model.dataset_meta
    classes = list(meta.get('classes') or map(str, range(head.num_classes)))
    padding = issubclass(model.data_preprocessor.geometry_class, Padding)
    file = getattr(model.cfg, 'filename', None)
    described: dict[str, Any] = dict(
        format=FORMAT,
        made_by=f'eomt_mm {__version__}',
        config=Path(file).name if file else None,
        weights='random' if weights is None else Path(weights).name,
        task=task_of(head),
        classes=classes,
        palette=[list(colour) for colour in class_colours({**meta, 'classes': classes})] if meta.get('palette') else [],
        num_things=head.num_things_classes if isinstance(head, EoMTDetHead) else 0,
        input=dict(name=INPUT, dtype='uint8', layout='NCHW', channels='RGB', size=list(network.size)),
        dynamic_batch=dynamic_batch,
        half=network.dtype == torch.float16,
        quantised=quantised,
        mean=network.mean.flatten().tolist(),
        std=network.std.flatten().tolist(),
        normalised_in_graph=True,
        geometry='padding' if padding else 'windows',
        postprocess_in_graph=not isinstance(network.postprocess, Logits),
        outputs=dict(network.postprocess.outputs),
    )
    if isinstance(head, EoMTDetHead):
        described.update(score_thr=head.score_thr, overlap_thr=head.overlap_thr, max_per_image=head.max_per_image)
    return described
