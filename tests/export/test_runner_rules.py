"""tools/run_exported.py predicts what eomt_mm.core predicts from the same random outputs of a network."""

from typing import Any

import numpy as np
import pytest
import torch
from export_runs import tool
from PIL import Image
from torch import Tensor

from eomt_mm.core.geometry import Padding, Windows
from eomt_mm.core.postprocess import Instances, instance_prediction, panoptic_prediction
from eomt_mm.core.window_scores import semantic_predictions
from eomt_mm.export.postprocess import PanopticMap, Postprocess, SemanticLabels, TopInstances

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


def found_by_runner(
    outputs: tuple[Tensor, Tensor], geometry: Padding | Windows, rules: Postprocess, task: str, monkeypatch: Any
) -> list[Any]:
    """Segments of an image of the geometry, with the rules' steps in PyTorch and small strips."""
    runner = tool('run_exported')
    monkeypatch.setattr(runner, 'STRIP', 2**9)
    monkeypatch.setattr(runner, 'resized', lambda *_: geometry.resized_size)
    windows = zip(*(logits.numpy() for logits in outputs), strict=True)

    def network(images: np.ndarray) -> dict[str, np.ndarray]:
        class_logits, mask_logits = next(windows)
        return dict(class_logits=class_logits[None], mask_logits=mask_logits[None])

    def in_torch(step: Any) -> Any:
        def graph(**inputs: np.ndarray) -> dict[str, np.ndarray]:
            results = step(*(torch.from_numpy(inputs[name].copy()) for name in step.inputs))
            return {name: x.numpy() for name, x in zip(step.outputs, results, strict=True)}

        return graph

    meta = dict(
        task=task, postprocess_in_graph=False, classes=list(range(CLASSES)), num_things=THINGS, input=dict(size=INPUT),
        geometry='windows' if task == 'semantic' else 'padding',
    )  # fmt: skip
    model = runner.Model(meta, network, {name: in_torch(step) for name, step in rules.steps().items()})
    height, width = geometry.ori_size
    return list(runner.segment(model, Image.new('RGB', (width, height))))


def padding(rng: np.random.Generator) -> Padding:
    """An image larger or smaller than the input, that fills at least one of its sides."""
    resized = [(INPUT[0], int(rng.integers(1, INPUT[1] + 1))), (int(rng.integers(1, INPUT[0] + 1)), INPUT[1])]
    h, w = resized[int(rng.integers(2))]
    factor = rng.uniform(0.3, 4)
    return Padding((max(1, round(factor * h)), max(1, round(factor * w))), (h, w), INPUT)


@pytest.mark.parametrize('score_thr, overlap_thr', [(0.8, 0.8), (0.3, 0.1), (0.0, 0.0)])
def test_panoptic(score_thr: float, overlap_thr: float, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = differing = count = 0
    for seed in MANY:
        classes, masks, rng = random_logits(seed)
        geometry = padding(rng)
        rules = PanopticMap(THINGS, score_thr, overlap_thr)
        found = found_by_runner((classes, masks), geometry, rules, 'panoptic', monkeypatch)
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


def test_instance(monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in MANY:
        classes, masks, rng = random_logits(seed)
        geometry, number = padding(rng), int(rng.integers(1, 40))
        found = found_by_runner((classes, masks), geometry, TopInstances(number), 'instance', monkeypatch)
        expected = instance_prediction(classes[0], masks[0], geometry.invert, number)
        seen = expected.masks.flatten(1).any(1)  # the runner leaves empty ones out
        expected = Instances(expected.labels[seen], expected.scores[seen], expected.masks[seen])
        ours = sorted(found, key=lambda one: (one.label, one.score))
        order = np.lexsort([expected.scores.numpy(), expected.labels.numpy()])
        assert [one.label for one in ours] == expected.labels[order].tolist(), seed
        np.testing.assert_allclose([one.score for one in ours], expected.scores[order].numpy(), rtol=1e-3, atol=1e-6)
        scores = expected.scores[order].numpy()
        for k, one in enumerate(ours):
            alone = np.isclose(scores, scores[k], rtol=1e-3, atol=1e-5).sum() == 1  # else the order is undefined
            assert not alone or (one.mask == expected.masks[order[k]].numpy()).mean() > 0.995


def test_semantic(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = differing = 0
    for seed in MANY:
        rng = np.random.default_rng(seed)
        resized = [(INPUT[0], int(rng.integers(INPUT[1], 150))), (int(rng.integers(INPUT[0], 100)), INPUT[1])][seed % 2]
        factor = rng.uniform(0.5, 3)
        ori_size = (max(1, round(factor * resized[0])), max(1, round(factor * resized[1])))
        geometry = Windows(ori_size, resized, INPUT)
        classes, masks, _ = random_logits(seed, geometry.num_inputs)
        ((labels, _),) = next(semantic_predictions([([classes], [masks])], [geometry], keep_scores=False))
        found = np.full(ori_size, -1)
        for one in found_by_runner((classes, masks), geometry, SemanticLabels(), 'semantic', monkeypatch):
            found[one.mask] = one.label
        differing += (found != labels.numpy()).sum()
        pixels += labels.numel()
    assert differing <= 1e-3 * pixels


def test_segments_without_a_pixel_in_the_image_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the padding, which a graph with post-processing knows, and empty masks."""
    runner, image = tool('run_exported'), Image.new('RGB', (10, 40))
    meta: dict[str, Any] = dict(
        input=dict(size=INPUT), geometry='padding', postprocess_in_graph=True, classes=['a', 'b'], num_things=1
    )
    in_padding = np.zeros((1, *INPUT), np.int32)
    in_padding[..., :4], in_padding[..., 20:] = 1, 2  # the image covers the first 8 columns of the input
    panoptic = dict(
        segment_map=in_padding, segment_ids=np.array([[1, 2, 0]]), labels=np.array([[0, 1, 1]]), scores=np.ones((1, 3))
    )
    found = runner.segment(runner.Model(dict(meta, task='panoptic'), lambda images: panoptic, {}), image)
    assert [one.label for one in found] == [0] and found[0].area > 0
    instances = dict(
        labels=np.array([[0, 1, 0]]),
        scores=np.array([[0.1, 0.9, 0.7]]),
        masks=np.stack([in_padding[0] == k for k in (1, 2, 3)])[None],
    )
    found = runner.segment(runner.Model(dict(meta, task='instance'), lambda images: instances, {}), image)
    assert [(one.label, one.score) for one in found] == [(0, 0.1)]
    logits = torch.zeros(1, 2, 3), torch.full((1, 2, 8, 12), -1.0)
    geometry = Padding((40, 10), (32, 8), INPUT)
    assert found_by_runner(logits, geometry, TopInstances(4), 'instance', monkeypatch) == []
    assert found_by_runner(logits, geometry, PanopticMap(1, 0.9, 0.8), 'panoptic', monkeypatch) == []
