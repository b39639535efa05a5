"""Tiny models with weights that matter, their files, and what our own pipeline predicts, for the tests of export."""

import importlib.util
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from paths import ROOT
from PIL import Image
from torch import Tensor, nn

from eomt_mm.apis import init_model, load_config
from eomt_mm.datasets.transforms import ResizeToInput

LEAVES = {
    ('panoptic', 2): 'coco/eomt_dinov2-s_24e_coco-panoptic-640.py',
    ('panoptic', 3): 'coco/eomt_dinov3-s_24e_coco-panoptic-640.py',
    ('instance', 2): 'coco/eomt_dinov2-s_12e_coco-instance-640.py',
    ('instance', 3): 'coco/eomt_dinov3-s_12e_coco-instance-640.py',
    ('semantic', 2): 'ade20k/eomt_dinov2-s_31e_ade20k-semantic-512.py',
    ('semantic', 3): 'ade20k/eomt_dinov3-s_16e_ade20k-semantic-512.py',
}
SIZE = 64
HEAD = dict(panoptic='panoptic_head', instance='panoptic_head', semantic='decode_head')
OPTIONS = dict(img_size=SIZE) | {
    f'model.backbone.{key}': value for key, value in dict(depth=2, embed_dim=48, num_heads=3, patch_size=16).items()
}


def config(task: str, family: int) -> Path:
    return ROOT / 'configs' / 'eomt' / LEAVES[task, family]


def options(task: str) -> dict[str, Any]:
    """Overrides for a tiny model; of panoptic segmentation, thresholds that its segments pass."""
    head = {f'model.{HEAD[task]}.num_queries': 20}  # more than are taken together
    if task == 'panoptic':
        head |= {'model.panoptic_head.score_thr': 0.3, 'model.panoptic_head.overlap_thr': 0.1}
    return {**OPTIONS, **head}


@cache
def model(task: str, family: int) -> Any:
    """A model that predicts different classes and masks for its queries; not to be changed."""
    torch.manual_seed(family)
    built = init_model(load_config(config(task, family), options(task)))
    vary_queries(built, HEAD[task])
    return built


def vary_queries(built: Any, name: str) -> None:
    """Let the queries of a model with random weights predict different classes and masks."""
    head = getattr(built, name)
    with torch.no_grad():
        for module in (head.queries, head.class_predictor, *head.mask_mlp):
            if not isinstance(module, nn.GELU):
                module.weight.mul_(8)
        head.mask_mlp[-1].weight.mul_(0.01)  # mask logits of about 4: beyond 100 all probabilities are equal
        head.mask_mlp[-1].bias.zero_()
        built.backbone.vit.norm.bias.add_(torch.randn_like(built.backbone.vit.norm.bias))


def checkpoint(task: str, family: int, folder: Path) -> Path:
    path = folder / f'{task}{family}.pth'
    if not path.exists():
        torch.save(dict(state_dict=model(task, family).state_dict()), path)
    return path


def pixels(*shape: int, seed: int = 0) -> Tensor:
    """uint8, smooth enough that a resized image is not grey."""
    coarse = torch.rand(1, 3, 5, 7, generator=torch.Generator().manual_seed(seed)) * 255
    return nn.functional.interpolate(coarse, shape[-2:], mode='bicubic').clamp(0, 255).byte().expand(*shape)


def image_file(folder: Path, size: tuple[int, int], seed: int = 0) -> Path:
    path = folder / f'{size[0]}x{size[1]}-{seed}.png'
    Image.fromarray(pixels(1, 3, *size, seed=seed)[0].permute(1, 2, 0).numpy()).save(path)
    return path


def predicted(built: Any, path: Path) -> Any:
    """The sample that our own pipeline predicts for an image file."""
    image = np.asarray(Image.open(path))[..., ::-1]  # BGR, as mmcv reads it
    fit = 'cover' if hasattr(built, 'decode_head') else 'inside'
    resized = ResizeToInput(built.data_preprocessor.img_size, fit)(dict(img=np.ascontiguousarray(image)))['img']
    inputs = torch.from_numpy(np.ascontiguousarray(resized.transpose(2, 0, 1)))
    sample = built.data_preprocessor.sample_class(metainfo=dict(ori_shape=image.shape[:2]))
    with torch.no_grad():
        return built.test_step(dict(inputs=[inputs], data_samples=[sample]))[0]


@cache
def tool(name: str) -> ModuleType:
    """A file of tools/ as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / 'tools' / f'{name}.py')
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


WIDE = (48, 96)


def expected_logits(built: Any, images: Tensor) -> list[Tensor]:
    preprocessor = built.data_preprocessor
    with torch.no_grad():
        return [x[-1] for x in built((images.float() - preprocessor.mean) / preprocessor.std, mode='tensor')]


def relative(found: Tensor, expected: Tensor) -> float:
    return ((found - expected).abs().max() / expected.abs().max()).item()
