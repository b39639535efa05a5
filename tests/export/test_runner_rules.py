"""The numpy rules of tools/run_onnx.py are those of eomt_mm.core: both on the same random outputs of a network."""

from typing import Any

import numpy as np
import pytest
import torch
from export_runs import tool
from PIL import Image
from torch import Tensor

from eomt_mm.core.geometry import Padding, Windows
from eomt_mm.core.postprocess import instance_prediction, panoptic_prediction
from eomt_mm.core.window_scores import semantic_predictions

INPUT, CLASSES, THINGS = (32, 48), 6, 3
MANY = range(40)


def random_logits(seed: int, number: int = 1) -> tuple[Tensor, Tensor, np.random.Generator]:
    """Confident classes, smooth masks that overlap, some of them empty, and the generator."""
    rng = np.random.default_rng(seed)
    queries = int(rng.integers(1, 30))
    class_logits = torch.from_numpy(rng.normal(0, 4, (number, queries, CLASSES + 1)).astype(np.float32))
    coarse = torch.from_numpy(rng.normal(0, 6, (number, queries, 3, 4)).astype(np.float32))
    mask_logits = torch.nn.functional.interpolate(coarse, (8, 12), mode='bicubic')
    mask_logits[:, torch.from_numpy(rng.random(queries) < 0.1)] = -3.0
    return class_logits, mask_logits, rng


def run_of(class_logits: Tensor, mask_logits: Tensor, geometry: Padding | Windows, **meta: Any) -> Any:
    outputs = dict(class_logits=class_logits.numpy(), mask_logits=mask_logits.numpy())
    meta |= dict(postprocess_in_graph=False, classes=list(range(CLASSES)), num_things=THINGS, input=dict(size=INPUT))
    return tool('run_onnx').Run(outputs, meta, geometry.resized_size, geometry.ori_size)


def padding(rng: np.random.Generator) -> Padding:
    """An image larger or smaller than the input, that fills at least one of its sides."""
    resized = [(INPUT[0], int(rng.integers(1, INPUT[1] + 1))), (int(rng.integers(1, INPUT[0] + 1)), INPUT[1])]
    h, w = resized[int(rng.integers(2))]
    factor = rng.uniform(0.3, 4)
    return Padding((max(1, round(factor * h)), max(1, round(factor * w))), (h, w), INPUT)


@pytest.mark.parametrize('score_thr, overlap_thr', [(0.8, 0.8), (0.3, 0.1), (0.0, 0.0)])
def test_panoptic(score_thr: float, overlap_thr: float) -> None:
    pixels = differing = count = 0
    for seed in MANY:
        classes, masks, rng = random_logits(seed)
        geometry = padding(rng)
        run = run_of(classes, masks, geometry, score_thr=score_thr, overlap_thr=overlap_thr)
        found = list(tool('run_onnx').panoptic(run))
        expected, segments = panoptic_prediction(classes[0], masks[0], geometry.invert, THINGS, score_thr, overlap_thr)
        assert [s.label for s in found] == [s.label for s in segments], seed
        np.testing.assert_allclose([s.score for s in found], [s.score for s in segments], rtol=1e-5)
        ids = np.zeros(geometry.ori_size, int)
        for number, segment in enumerate(found, start=1):
            assert not ids[segment.mask].any()
            ids[segment.mask] = number
        differing += (ids != expected.numpy()).sum()
        pixels, count = pixels + ids.size, count + len(found)
    assert differing <= 1e-3 * pixels and count > 20


def test_instance() -> None:
    for seed in MANY:
        classes, masks, rng = random_logits(seed)
        geometry, number = padding(rng), int(rng.integers(1, 40))
        found = list(tool('run_onnx').instance(run_of(classes, masks, geometry, max_per_image=number)))
        expected = instance_prediction(classes[0], masks[0], geometry.invert, number)
        ours = sorted(found, key=lambda one: (one.label, one.score))
        order = np.lexsort([expected.scores.numpy(), expected.labels.numpy()])
        assert [one.label for one in ours] == expected.labels[order].tolist(), seed
        np.testing.assert_allclose([one.score for one in ours], expected.scores[order].numpy(), rtol=1e-3, atol=1e-6)
        scores = expected.scores[order].numpy()
        for k, one in enumerate(ours):
            alone = np.isclose(scores, scores[k], rtol=1e-3, atol=1e-5).sum() == 1  # else the order is undefined
            assert not alone or (one.mask == expected.masks[order[k]].numpy()).mean() > 0.995


def test_semantic() -> None:
    pixels = differing = 0
    for seed in MANY:
        rng = np.random.default_rng(seed)
        resized = [(INPUT[0], int(rng.integers(INPUT[1], 150))), (int(rng.integers(INPUT[0], 100)), INPUT[1])][seed % 2]
        factor = rng.uniform(0.5, 3)
        ori_size = (max(1, round(factor * resized[0])), max(1, round(factor * resized[1])))
        geometry = Windows(ori_size, resized, INPUT)
        classes, masks, _ = random_logits(seed, geometry.num_inputs)
        ((labels, _),) = next(semantic_predictions([([classes], [masks])], [geometry], keep_scores=False))
        found = tool('run_onnx').label_map(run_of(classes, masks, geometry))
        differing += (found != labels.numpy()).sum()
        pixels += labels.numel()
    assert differing <= 1e-3 * pixels


def test_segments_without_a_pixel_in_the_image_are_left_out() -> None:
    """Those of the padding, which a graph with post-processing knows, and empty masks."""
    runner, image = tool('run_onnx'), Image.new('RGB', (10, 40))
    meta: dict[str, Any] = dict(
        input=dict(size=INPUT), geometry='padding', postprocess_in_graph=True, classes=['a', 'b'], num_things=1
    )
    in_padding = np.zeros((1, *INPUT), np.int32)
    in_padding[..., :4], in_padding[..., 20:] = 1, 2  # the image covers the first 8 columns of the input
    panoptic = dict(
        segment_map=in_padding, segment_ids=np.array([[1, 2, 0]]), labels=np.array([[0, 1, 1]]), scores=np.ones((1, 3))
    )
    found = runner.segment(lambda _: panoptic, dict(meta, task='panoptic'), image)
    assert [one.label for one in found] == [0] and found[0].area > 0
    instances = dict(
        labels=np.array([[0, 1, 0]]),
        scores=np.array([[0.1, 0.9, 0.7]]),
        masks=np.stack([in_padding[0] == k for k in (1, 2, 3)])[None],
    )
    found = runner.segment(lambda _: instances, dict(meta, task='instance'), image)
    assert [(one.label, one.score) for one in found] == [(0, 0.1)]
    mask_logits = np.full((1, 2, 8, 12), -1.0, np.float32)
    logits = dict(class_logits=np.zeros((1, 2, 3), np.float32), mask_logits=mask_logits)
    meta |= dict(task='instance', postprocess_in_graph=False, max_per_image=4)
    assert runner.segment(lambda _: logits, meta, image) == []
