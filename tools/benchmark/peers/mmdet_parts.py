"""mmdet's sides: Mask2Former's losses, post-processing and pipeline, and the metric for COCO's masks."""

import copy
import importlib.util
import sys
from argparse import Namespace
from functools import partial
from types import ModuleType
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from mmdet.evaluation import CocoMetric
from mmdet.models import MaskFormerFusionHead
from mmdet.structures import DetDataSample
from mmengine.registry import MODELS, DefaultScope
from mmengine.structures import InstanceData
from torch import Tensor

from benchmark.configs import side_config
from benchmark.harness import Call
from benchmark.subjects.head import CRITERION, POSTPROCESS, losses_call
from benchmark.subjects.metrics import INSTANCE_AP, scoring
from benchmark.subjects.pipeline import PIPELINE, one_by_one

MASK2FORMER = 'mmdet::mask2former/mask2former_r50_8xb2-lsj-50e_coco-panoptic'


@CRITERION.side('mmdet')
def criterion(problem: Namespace) -> Call:
    """Losses by ``Mask2FormerHead.loss_by_feat`` of its own config, with bool masks, faster than its int64 ones."""
    cfg = side_config(MASK2FORMER, num_queries=problem.class_logits[0].shape[1]).model
    cfg.train_cfg.num_points = problem.num_points
    with DefaultScope.overwrite_default_scope('mmdet'):
        head = MODELS.build(dict(cfg.panoptic_head, train_cfg=cfg.train_cfg, test_cfg=cfg.test_cfg))
    targets = [InstanceData(**target) for target in problem.targets]
    metas: list[dict[str, Any]] = [{}] * len(targets)
    return losses_call(problem, lambda: head.loss_by_feat(problem.class_logits, problem.mask_logits, targets, metas))


@POSTPROCESS.side('mmdet')
def postprocess(problem: Namespace) -> Call:
    """Upsampling as in ``MaskFormerHead.predict``, then the fusion head with the published thresholds."""
    panoptic, geometry = problem.task == 'panoptic', problem.geometry
    settings = dict(object_mask_thr=0.8, iou_thr=0.8, filter_low_score=True, max_per_image=problem.max_per_image)
    settings.update(panoptic_on=panoptic, instance_on=not panoptic)
    fusion = MaskFormerFusionHead(problem.num_things, problem.num_stuff, test_cfg=settings)
    sample = DetDataSample(metainfo=dict(img_shape=geometry.resized_size, ori_shape=geometry.ori_size))

    @torch.no_grad()
    def call() -> Tensor | None:
        masks = F.interpolate(problem.mask_logits, geometry.input_size, mode='bilinear', align_corners=False)
        (found,) = fusion.predict(problem.class_logits, masks, [sample], rescale=True)
        return found['pan_results'].sem_seg[0] if panoptic else None

    return call


@INSTANCE_AP.side('mmdet')
def instance_ap(problem: Namespace) -> Call:
    return scoring(problem, partial(CocoMetric, metric='segm', proposal_nums=(1, 10, 100)))


@PIPELINE.side('mmdet')
def pipeline(problem: Namespace) -> Call:
    """Mask2Former's training pipeline (large-scale jitter); samples have one mask per segment."""
    provide_rgb2id()
    size = problem.size
    steps = [
        dict(type='LoadImageFromFile'),
        dict(type='LoadPanopticAnnotations', with_bbox=True, with_mask=True, with_seg=True),
        dict(type='RandomFlip', prob=0.5),
        dict(type='RandomResize', scale=(size, size), ratio_range=(0.1, 2.0), keep_ratio=True),
        dict(type='RandomCrop', crop_size=(size, size), crop_type='absolute', recompute_bbox=True,
             allow_negative_crop=True),
        dict(type='PackDetInputs'),
    ]  # fmt: skip
    return one_by_one(dict(copy.deepcopy(problem.files), type='CocoPanopticDataset', pipeline=steps))


def provide_rgb2id() -> None:
    """Replace the function of panopticapi that mmdet's loading calls, if the package is missing."""
    if 'panopticapi' not in sys.modules and importlib.util.find_spec('panopticapi') is None:
        package, utils = ModuleType('panopticapi'), ModuleType('panopticapi.utils')
        utils.rgb2id = lambda rgb: rgb.astype(np.int32) @ np.array([1, 256, 65536], np.int32)  # type: ignore[attr-defined]
        package.utils = utils  # type: ignore[attr-defined]
        sys.modules.update({'panopticapi': package, 'panopticapi.utils': utils})
