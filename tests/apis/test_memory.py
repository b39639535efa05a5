"""Peak memory of large images: that of a stated number of masks, not of all that are found."""

from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime
import pytest
import torch
import videomt.inferencer  # noqa: F401  it registers
from export_runs import tool
from inferencer_models import saved_model, saved_video_model
from memory import peak_of
from mmengine.evaluator import Evaluator
from PIL import Image
from torch import nn

from eomt_mm.apis import EoMTInferencer, init_inferencer
from eomt_mm.apis.inputs import ImageInput
from eomt_mm.evaluation import InstanceAP
from eomt_mm.export.onnx import step_graph
from eomt_mm.export.postprocess import PanopticMap, SemanticLabels, TopInstances

pytestmark = pytest.mark.slow
SIDE, QUERIES = 2900, 24  # a map of 33 MB is above what malloc keeps when it is freed
# Bytes per pixel of the image: 16 masks of float32 logits (docs/inference.md). The image itself takes 3.
BOUND = 64
Make = Callable[[str], EoMTInferencer]


def noise(side: int) -> np.ndarray:
    coarse = np.random.default_rng(0).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    return cv2.resize(coarse, (side, side))


def per_pixel(work: Callable[[np.ndarray], object]) -> float:
    """Peak bytes of work with a large image, per pixel."""
    work(noise(40))
    large = noise(SIDE)
    return peak_of(partial(work, large)) / SIDE**2


@pytest.fixture(scope='module')
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Inferencers of small models with queries that differ and find something, each built once."""
    folder = tmp_path_factory.mktemp('models')

    def build(kind: str) -> EoMTInferencer:
        *video, task = kind.split()
        save = saved_video_model if video else saved_model
        inferencer = init_inferencer(*save(task, folder / kind), device='cpu', show_progress=False)
        head = inferencer.head
        torch.manual_seed(1)
        head.queries = nn.Embedding(QUERIES, head.queries.embedding_dim)
        head.queries.weight.data.mul_(10)
        head.num_queries = QUERIES
        return inferencer

    return cache(build)


@pytest.mark.parametrize(
    'kind, least, options',
    [
        ('instance', 0, dict(pred_score_thr=1.0)),
        ('instance', 20, dict(pred_score_thr=0.0)),
        ('panoptic', 5, dict(pred_score_thr=0.0, overlap_thr=0.0, return_vis=True)),
        ('semantic', 1, dict(return_vis=True)),
        ('video instance', 5, dict(pred_score_thr=0.0)),
        ('video panoptic', 2, dict(pred_score_thr=0.0, overlap_thr=0.0)),
    ],
)
def test_inferencer(kind: str, least: int, options: dict[str, Any], make: Make) -> None:
    inferencer = make(kind)
    found = inferencer(noise(400), **options)['predictions'][0]['segments_info']
    assert len(found) >= least
    assert per_pixel(lambda image: inferencer(image, **options)) < BOUND


def test_evaluation_keeps_a_byte_per_instance_and_pixel(make: Make, tmp_path: Path) -> None:
    """Average precision needs all ``max_per_image`` instances."""
    inferencer = make('instance')
    model, number = inferencer.model, inferencer.head.max_per_image

    def evaluate(image: np.ndarray) -> None:
        evaluator = Evaluator(InstanceAP(out_dir=str(tmp_path), format_only=True))
        evaluator.dataset_meta = dict(inferencer.meta)
        ((_, data),) = inferencer.preprocess([ImageInput('x', pixels=lambda: image)])
        data['data_samples'][0].set_metainfo(dict(img_id=1))
        with torch.no_grad():
            samples = model.test_step(data)
        assert len(samples[0].pred_instances) > 90
        evaluator.process(samples)

    assert per_pixel(evaluate) < number + BOUND


RULES = dict(instance=TopInstances(50), panoptic=PanopticMap(3, 0.0, 0.0), semantic=SemanticLabels())


@pytest.mark.parametrize('task', ['instance', 'panoptic', 'semantic'])
def test_runner_of_exported_files(task: str) -> None:
    runner, rng = tool('run_exported'), np.random.default_rng(0)
    outputs = dict(
        class_logits=rng.normal(0, 4, (1, QUERIES, 6)).astype(np.float32),
        mask_logits=rng.normal(0, 4, (1, QUERIES, 16, 16)).astype(np.float32),
    )
    meta: dict[str, Any] = dict(
        task=task, input=dict(size=(64, 64)), geometry='windows' if task == 'semantic' else 'padding', num_things=3,
        classes=list('abcde'), palette=[], postprocess_in_graph=False,
    )  # fmt: skip
    read = runner.onnx_reader(onnxruntime, 'f32', 1)
    sides = dict(Q=QUERIES, K=5, K1=6, h=16, w=16)
    steps = {name: read(step_graph(step, sides))[0] for name, step in RULES[task].steps().items()}
    model = runner.Model(meta, lambda images: outputs, steps)

    def run(pixels: np.ndarray) -> None:
        image = Image.fromarray(pixels)
        segments = runner.segment(model, image)
        assert len(segments) >= (40 if task == 'instance' else 3)
        assert all(runner.described(segment, meta)['area'] for segment in segments)
        runner.drawn(image, segments[:5], meta)

    assert per_pixel(run) < BOUND
