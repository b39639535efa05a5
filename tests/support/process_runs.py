"""What each of two gloo processes does in the tests of distributed runs; `in_two_processes` starts them."""

import os
import pickle
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from paths import ROOT

import eomt_mm  # noqa: F401  isort: skip
import torch
import torch.distributed as dist
from copies import in_new_processes
from criterion_samples import gradient, gradients
from mmdet.registry import DATASETS as DET_DATASETS, METRICS as DET_METRICS
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.dataset import DefaultSampler
from mmengine.model import MMDistributedDataParallel
from mmengine.optim import OptimWrapper
from mmengine.registry import DefaultScope
from mmengine.structures import InstanceData, PixelData
from mmseg.registry import DATASETS as SEG_DATASETS, METRICS as SEG_METRICS
from torch import Tensor, nn

from eomt_mm.apis import load_config
from eomt_mm.core.postprocess import Segment
from eomt_mm.engine.processes import start_processes
from eomt_mm.models.heads import encode_panoptic
from eomt_mm.registry import MODELS

K, Q, P, SIZE, NUM_BLOCKS = 3, 6, 21, 32, 2
DINOV2 = 'vit_small_patch14_reg4_dinov2'


def free_port() -> int:
    with socket.socket() as server:
        server.bind(('127.0.0.1', 0))
        return server.getsockname()[1]


def in_two_processes(
    folder: Path,
    *works: tuple[Callable[..., Any], tuple[Any, ...]],
    start: Callable[..., None] = in_new_processes,
) -> list[list[Any]]:
    """What each ``function(*arguments)`` of ``works`` returns in each of two processes, run in ``folder``."""
    start(2, _process, free_port(), str(folder), works)
    return [torch.load(folder / f'rank_{rank}.pt', weights_only=False) for rank in range(2)]


def _process(rank: int, port: int, folder: str, works: Any) -> None:
    torch.set_num_threads(1)
    os.chdir(folder)  # mmengine's metrics meet in the current folder
    os.environ.update(RANK=str(rank), WORLD_SIZE='2', LOCAL_RANK=str(rank))
    os.environ.update(MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port))
    start_processes(Config(dict(env_cfg=dict(dist_cfg=dict(backend='nccl', timeout=120)))), 'pytorch')
    torch.save([work(*arguments) for work, arguments in works], f'rank_{rank}.pt')
    dist.destroy_process_group()


# Models


class GivenPoints(nn.Module):
    """A criterion that takes the points of each image from the image's number, in whatever process it is."""

    def __init__(self, criterion: nn.Module, images: list[tuple[int, int]]) -> None:
        super().__init__()
        self.criterion = criterion
        layers = range(NUM_BLOCKS + 1)
        drawn = [[self._draw(index, layer, num) for index, num in images] for layer in layers]
        self.match_points = [torch.stack([match for match, _ in layer]) for layer in drawn]
        self.loss_points = [torch.cat([loss for _, loss in layer]) for layer in drawn]

    def forward(self, class_logits: Any, mask_logits: Any, targets: Any, **more: Any) -> dict[str, Tensor]:
        return self.criterion(class_logits, mask_logits, targets, self.match_points, self.loss_points, **more)

    @staticmethod
    def _draw(index: int, layer: int, num: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(10 * index + layer)
        sizes = ((P, 2), (min(Q, num), P, 2))
        match, loss = (torch.rand(*size, generator=generator, dtype=torch.float64) for size in sizes)
        return match, loss


def make_model(backbone: dict[str, Any] | None = None, **criterion: Any) -> Any:
    """A tiny detector in float64, in training mode, the same in every process; arguments are its settings."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = MODELS.build(
            dict(
                type='eomt_mm.EoMTDetector',
                data_preprocessor=dict(type='eomt_mm.EoMTDetDataPreprocessor', img_size=SIZE),
                backbone=dict(
                    dict(type='eomt_mm.TimmViT', model_name=DINOV2, img_size=SIZE, patch_size=16),
                    **dict(depth=3, embed_dim=32, num_heads=2), **(backbone or {}),
                ),
                panoptic_head=dict(
                    type='eomt_mm.EoMTDetHead', task='instance', num_things_classes=K, num_queries=Q,
                    num_blocks=NUM_BLOCKS, criterion=dict(num_points=P, **criterion),
                ),
            )
        ).double()  # fmt: skip
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.2)
    return model.train()


def make_batch(images: list[tuple[int, int]]) -> dict[str, Any]:
    """Collated data of images given as (number, number of targets)."""
    inputs, samples = [], []
    for index, num in images:
        generator = torch.Generator().manual_seed(index)
        inputs.append(torch.randint(256, (3, SIZE, SIZE), generator=generator, dtype=torch.uint8))
        labels = torch.randint(K, (num,), generator=generator)
        masks = torch.rand(num, SIZE, SIZE, generator=generator) > 0.6
        samples.append(DetDataSample(gt_instances=InstanceData(labels=labels, masks=masks)))
    return dict(inputs=inputs, data_samples=samples)


def loss_and_gradients(
    model: Any, images: list[tuple[int, int]], keep_probs: tuple[float, float]
) -> tuple[Tensor, dict[str, Tensor | None]]:
    """Loss terms and the gradient of each trained parameter; ``model`` may be wrapped."""
    bare = model.module if isinstance(model, MMDistributedDataParallel) else model
    head = bare.panoptic_head
    criterion = getattr(head.criterion, 'criterion', head.criterion)
    head.criterion = GivenPoints(criterion, images)
    head.set_attn_mask_probs(list(keep_probs))
    model.zero_grad(set_to_none=True)
    losses = model(**bare.data_preprocessor(make_batch(images), training=True), mode='loss')
    sum(losses.values()).backward()
    gradients = {
        name: None if parameter.grad is None else parameter.grad.clone()
        for name, parameter in bare.named_parameters()
        if parameter.requires_grad
    }
    head.criterion = criterion
    return torch.stack([loss.detach() for loss in losses.values()]), gradients


def model_results(
    counts: list[tuple[int, int]], keep_probs: list[tuple[float, float]], variants: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    """All that the tests of models compare. Process r takes image r of each pair in ``counts``.

    Each wrapped model makes several passes: torch's reducer refuses the second one where a parameter was left out.

    Args:
        counts: targets of two images.
        keep_probs: of the joint blocks' masks.
        variants: settings of backbones.
    """
    rank = dist.get_rank()
    results: dict[str, Any] = dict(equal={}, local={}, silent={})
    wrapped = {sync: MMDistributedDataParallel(make_model(sync_class_norm=sync)) for sync in (True, False)}
    for nums in counts:
        for probs in keep_probs:
            images = [(rank, nums[rank])]
            results['equal'][nums, probs] = loss_and_gradients(wrapped[True], images, probs)
        results['local'][nums] = loss_and_gradients(wrapped[False], images, probs)
    for name, backbone in variants.items():
        model = MMDistributedDataParallel(make_model(backbone))
        for probs in [(1.0, 1.0), (1.0, 0.5), (0.3, 0.0), (0.0, 0.0)]:
            _, gradients = loss_and_gradients(model, [(rank, 2 * rank)], probs)
            results['silent'][name, probs] = [key for key, value in gradients.items() if value is None]
    results['weights'] = trained_weights(rank)
    return results


def trained_weights(rank: int) -> dict[str, Tensor]:
    """After steps as the training loop makes them, on images of each process's own, some without targets."""
    model: Any = MMDistributedDataParallel(make_model())
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.05)
    wrapper = OptimWrapper(optimiser, clip_grad=dict(max_norm=0.01))
    torch.manual_seed(rank)  # masks and points are each process's own, too
    model.module.panoptic_head.set_attn_mask_probs([0.5, 1.0])
    for step, nums in enumerate([(2, 3), (0, 4), (0, 0), (9, 1)]):
        model.train_step(make_batch([(10 * step + rank, nums[rank])]), wrapper)
    return model.module.state_dict()


# The criterion alone


def whole_results(counts: Sequence[tuple[int, ...]]) -> dict[Any, Tensor]:
    """Gradients of 4 images, 2 in each process, by targets and sync_class_norm."""
    return {(nums, sync): mean(gradients(own_images(), nums, sync)) for nums in counts for sync in (True, False)}


def parted_results(counts: Sequence[tuple[int, ...]]) -> dict[Any, Tensor]:
    """The same in one and in two micro-batches, by targets, sync_class_norm and number of micro-batches."""
    return {
        (nums, sync, len(parts)): mean(gradient(nums, parts, sync, own_images()))
        for nums in counts
        for sync in (True, False)
        for parts in ([2], [1, 1])
    }


def own_images() -> slice:
    return slice(2 * dist.get_rank(), 2 * dist.get_rank() + 2)


def mean(found: Tensor) -> Tensor:
    """Over the processes, as DistributedDataParallel averages."""
    dist.all_reduce(found)
    return found / 2


# Metrics


METRICS_OF = {
    'panoptic': [dict(type='eomt_mm.PanopticQuality')],
    'instance': [dict(type='eomt_mm.CityscapesAP'), dict(type='eomt_mm.InstanceAP')],
    'semantic': [dict(type='eomt_mm.SemanticIoU'), dict(type='IoUMetric')],
}


def metric_results(root: Path, out: Path) -> dict[str, Any]:
    """Each metric's numbers and largest record in bytes on the validation set below ``root``; files go to ``out``."""
    results: dict[str, Any] = {}
    for task, metrics in METRICS_OF.items():
        name = f'eomt_dinov2-s_107e_cityscapes-{task}-1024.py'
        cfg = load_config(ROOT / 'configs' / 'eomt' / 'cityscapes' / name, {'img_size': 64}, root)
        datasets, kinds = (SEG_DATASETS, SEG_METRICS) if task == 'semantic' else (DET_DATASETS, DET_METRICS)
        with DefaultScope.overwrite_default_scope(cfg.default_scope):
            dataset = datasets.build(cfg.val_dataloader.dataset)
            for metric in metrics:
                folder = {'output_dir' if task == 'semantic' else 'out_dir': str(out / metric['type'])}
                evaluated = kinds.build({**metric, **folder})
                evaluated.dataset_meta = dataset.metainfo
                for index in DefaultSampler(dataset, shuffle=False):
                    sample = dataset[index]['data_samples']
                    predict(sample, index, len(dataset.metainfo['classes']))
                    evaluated.process({}, [sample.to_dict()])
                size = max(len(pickle.dumps(record)) for record in evaluated.results)
                results[metric['type']] = (evaluated.evaluate(len(dataset)), size)
    return results


def predict(sample: Any, index: int, num_classes: int) -> None:
    """Adds the ground truth as prediction, moved more the higher the image's number, with some labels wrong."""
    if 'gt_sem_seg' in sample:
        truth = sample.gt_sem_seg.data.long()
        sample.pred_sem_seg = PixelData(data=torch.where(truth == 255, 0, truth).roll(3 * index, -1))
        return
    ids, labels = sample.gt_panoptic_seg.segment_ids[0].roll(index, -1), sample.gt_instances.labels.clone()
    labels[index::4] = (labels[index::4] + 1) % num_classes
    ids = torch.where(ids <= len(labels), ids, 0)  # ids above are crowds
    segments = [Segment(k, label, 1.0) for k, label in enumerate(labels.tolist(), start=1)]
    sample.pred_panoptic_seg = PixelData(sem_seg=encode_panoptic(ids, segments, num_classes)[None])
    masks = ids == torch.arange(1, len(labels) + 1)[:, None, None]
    scores = torch.linspace(0.9, 0.1, len(labels)) if len(labels) else torch.zeros(0)
    sample.pred_instances = InstanceData(masks=masks, labels=labels, scores=scores)
