"""eomt_mm, in every subject."""

from argparse import Namespace
from typing import Any
from unittest import mock

import cv2
import torch
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from mmengine.registry import DATASETS, DefaultScope
from torch import Tensor, nn

from benchmark.configs import test_pipeline, without_targets
from benchmark.harness import Call
from benchmark.models import build_model, keep_queries
from benchmark.problems import InstanceResults, losses_call, one_by_one
from eomt_mm.core.criterion import Criterion
from eomt_mm.evaluation import panoptic_files, panoptic_image
from eomt_mm.evaluation.instance_ap import InstanceAP
from eomt_mm.models.heads import EoMTDetHead

Logits = tuple[Tensor, Tensor]  # of classes (B, Q, K + 1) and masks (B, Q, H/4, W/4)


def network(cfg: Config) -> Any:
    """The config's model in evaluation; its random weights are the same in every process."""
    torch.manual_seed(0)
    return build_model(cfg, None, 'cpu')


def head_of(model: nn.Module) -> Any:
    name = 'decode_head' if hasattr(model, 'decode_head') else 'panoptic_head'
    return model.get_submodule(name)


def forward(problem: Namespace) -> Call:
    model = network(problem.cfg)

    @torch.no_grad()
    def call() -> Logits:
        class_logits, mask_logits = model.extract_feat(problem.images)
        return class_logits[-1], mask_logits[-1]

    return call


def training(problem: Namespace) -> Call:
    """A step; its result: the last predictions."""
    model = network(problem.cfg).train()
    head = head_of(model)
    head.set_attn_mask_probs([1.0] * head.num_blocks)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)

    def call() -> Logits:
        class_logits, mask_logits = model.extract_feat(problem.images)
        losses = head.criterion(class_logits, mask_logits, problem.targets)
        sum(losses.values(), torch.zeros(())).backward()
        optimizer.step()
        optimizer.zero_grad()
        return class_logits[-1].detach(), mask_logits[-1].detach()

    return call


def criterion(problem: Namespace) -> Call:
    losses = Criterion(problem.num_classes, num_points=problem.num_points)
    return losses_call(problem, lambda: losses(problem.class_logits, problem.mask_logits, problem.targets))


def postprocess(problem: Namespace) -> Call:
    """``EoMTDetHead.predict``: choice of queries, ``Padding.invert``, segments or instances, mmdet's encoding."""
    sizes = dict(embed_dim=16, depth=2, patch_size=16, num_blocks=1)
    head = EoMTDetHead(problem.task, problem.num_things, problem.num_stuff, **sizes)
    sample = DetDataSample(metainfo=dict(geometry=problem.geometry))

    @torch.no_grad()
    def call() -> Tensor | None:
        (found,) = head.predict(([problem.class_logits], [problem.mask_logits]), [sample])
        return found.pred_panoptic_seg.sem_seg[0] if problem.task == 'panoptic' else None

    return call


def file_to_panoptic(problem: Namespace) -> Call:
    """The config's own test pipeline and ``test_step``."""
    cfg, model = problem.cfg, network(problem.cfg)
    keep_queries(model.panoptic_head, problem.kept)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        pipeline = Compose(without_targets(test_pipeline(cfg)))

    @torch.no_grad()
    def call() -> Tensor:
        item = pipeline(dict(img_path=str(problem.path), img_id=0))
        (sample,) = model.test_step(pseudo_collate([item]))
        return sample.pred_panoptic_seg.sem_seg[0]

    return call


def pq(problem: Namespace) -> Call:
    """``pq_of_files``; its result: PQ, SQ and RQ of each category."""
    read: Any = panoptic_image.read_panoptic_png
    if problem.in_memory:
        read = {str(path): read(path) for path in problem.path.glob('*/*.png')}.__getitem__

    def call() -> dict[str, tuple[float, ...]]:
        gt_json, gt, pred_json, pred = (str(problem.path / name) for name in ('gt.json', 'gt', 'pred.json', 'pred'))
        cv2.setNumThreads(1)  # its threads would run beside the Python that is timed
        with mock.patch.object(panoptic_image, 'read_panoptic_png', read):
            _, per_class = panoptic_files.pq_of_files(gt_json, gt, pred_json, pred)
        return {str(id_): (one['pq'], one['sq'], one['rq']) for id_, one in per_class.items()}

    return call


def instance_ap(results: InstanceResults) -> Call:
    return lambda: results.score(InstanceAP)


def pipeline(problem: Namespace) -> Call:
    with DefaultScope.overwrite_default_scope('mmdet'):
        dataset = DATASETS.build(dict(problem.files, type='eomt_mm.CocoPanoptic', pipeline=problem.pipeline))
    return one_by_one(dataset)
