"""tools/benchmark/sides.py, models.py and inputs.py."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmark_sides import mask2former, ours
from tool_runs import CONFIGS, HEAD

from benchmark.harness import in_fresh_process
from benchmark.inputs import make_batch, write_image
from benchmark.measure import peak_memory
from benchmark.models import deformable_attention
from benchmark.sides import Spec, build_side

IMAGE_SIZE = (48, 40)
RESULT = dict(panoptic='sem_seg', instance='masks', semantic='data')


def spec_of(host: bool, task: str, folder: Path, **changes: Any) -> Spec:
    return mask2former(task, folder, **changes) if host else ours(task, **changes)


@pytest.fixture(scope='module')
def image(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_image(tmp_path_factory.mktemp('images') / 'image.jpg', IMAGE_SIZE))


@pytest.mark.parametrize('host', [False, True], ids=['ours', 'mask2former'])
@pytest.mark.parametrize('task', CONFIGS)
def test_model_stage_gives_logits_of_the_inputs_size(host: bool, task: str, tmp_path: Path) -> None:
    side = build_side(spec_of(host, task, tmp_path, size=(64, 96), batch=2))
    class_logits, mask_logits = side.call()
    assert class_logits[-1].shape[:2] == mask_logits[-1].shape[:2] == (2, 10)
    assert mask_logits[-1].shape[2:] == (16, 24)
    assert side.task == task and side.input_size == (64, 96)


@pytest.mark.parametrize('host', [False, True], ids=['ours', 'mask2former'])
@pytest.mark.parametrize('task', CONFIGS)
def test_full_stage_ends_at_the_images_own_size(host: bool, task: str, tmp_path: Path, image: str) -> None:
    results = build_side(spec_of(host, task, tmp_path, stage='full', image=image, batch=2)).call()
    assert len(results) == 2
    assert all(result.get(RESULT[task]).shape[-2:] == IMAGE_SIZE for result in results)


@pytest.mark.parametrize('host', [False, True], ids=['ours', 'mask2former'])
@pytest.mark.parametrize('task', CONFIGS)
def test_training_stage_changes_every_part(host: bool, task: str, tmp_path: Path) -> None:
    side = build_side(spec_of(host, task, tmp_path, stage='train'))
    before = {name: parameter.detach().clone() for name, parameter in side.model.named_parameters()}
    side.call()
    still = {name for name, parameter in side.model.named_parameters() if torch.equal(parameter, before[name])}
    parts = {name.split('.')[0] for name in before}
    assert parts == {name.split('.')[0] for name in before.keys() - still} == {'backbone', HEAD[task]}
    assert side.model.training


@pytest.mark.parametrize('host', [False, True], ids=['ours', 'mask2former'])
@pytest.mark.parametrize('kept', [0, 4, 25])
def test_kept_queries_are_certain(host: bool, kept: int, tmp_path: Path, image: str) -> None:
    side = build_side(spec_of(host, 'panoptic', tmp_path, stage='full', image=image, kept=kept))
    class_logits, _ = side.forward(torch.randn(1, 3, 64, 64), side.call() and [None])
    probabilities = class_logits[-1][0].softmax(-1)
    assert probabilities.amax(-1).min() > 0.999
    labels = probabilities.argmax(-1)
    assert (labels < side.model.panoptic_head.num_classes).sum() == min(kept, 10)
    num_classes = side.model.panoptic_head.num_classes
    assert len(labels.unique()) == min(kept, 10, num_classes) + (kept < 10)  # one more: "no object"


def test_stock_mask2former_predicts_the_panoptic_map_alone(tmp_path: Path) -> None:
    assert build_side(mask2former('panoptic', tmp_path)).model.panoptic_fusion_head.test_cfg.instance_on is False
    assert build_side(mask2former('instance', tmp_path)).model.panoptic_fusion_head.test_cfg.instance_on is True


def test_form_of_deformable_attention(tmp_path: Path) -> None:
    model = build_side(mask2former('panoptic', tmp_path)).model
    assert deformable_attention(model, 'cpu') == '1 deformable, slow PyTorch form (no compiled op)'
    assert deformable_attention(build_side(ours('panoptic')).model, 'cpu') is None


def test_mixed_precision() -> None:
    class_logits, _ = build_side(ours('panoptic', amp='bfloat16')).call()
    assert class_logits[-1].dtype == torch.bfloat16


def test_number_of_queries_is_the_specs() -> None:
    class_logits, _ = build_side(ours('semantic', num_queries=3)).call()
    assert class_logits[-1].shape[1] == 3


def test_sides_of_one_spec_have_equal_weights_and_inputs() -> None:
    first, second = (build_side(ours('panoptic')).call()[0][-1] for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize('host', [False, True], ids=['ours', 'mask2former'])
def test_compiled_network_gives_equal_logits(host: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[Any] = []

    def eagerly(function: Any, **kwargs: Any) -> Any:  # the tool's choice of what to compile, without the compiler
        compiled.append(kwargs)
        return function

    monkeypatch.setattr(torch, 'compile', eagerly)
    side = build_side(spec_of(host, 'panoptic', tmp_path, compile_mode='default'))
    expected = side.call()[1][-1]
    side.compile()
    torch.testing.assert_close(side.call()[1][-1], expected)
    assert compiled == [dict(mode='default')] * (2 if host else 1)


@pytest.mark.slow
@pytest.mark.parametrize(('stage', 'copies'), [('model', 1), ('train', 4)])
def test_memory_holds_weights_and_in_training_gradients_and_the_optimisers_states(stage: str, copies: int) -> None:
    spec = ours('panoptic', stage=stage)
    spec = replace(spec, options={**spec.options, 'model.backbone.embed_dim': 768})
    weights = 4 * sum(parameter.numel() for parameter in build_side(spec).model.parameters())
    peak = in_fresh_process(peak_memory, spec)
    assert peak is None or copies * weights < peak < (copies + 1) * weights


def test_targets_are_within_the_classes() -> None:
    for sample in make_batch('panoptic', (64, 96), 2, 3, 2)['data_samples']:
        assert set(sample.gt_instances.labels.tolist()) <= {0, 1, 2}
        assert set(sample.gt_sem_seg.sem_seg.unique().tolist()) == {3, 4}
        boxes, masks = sample.gt_instances.bboxes, sample.gt_instances.masks.masks
        assert ((boxes[:, 2:] - boxes[:, :2]).prod(1).tolist()) == masks.sum((1, 2)).tolist()
    (sample,) = make_batch('semantic', (64, 96), 1, 0, 150)['data_samples']
    assert sample.gt_sem_seg.data.shape == (1, 64, 96) and len(sample.gt_sem_seg.data.unique()) == 5
