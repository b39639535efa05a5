"""Metrics and losses of every prediction layer, averaged weights, and the best checkpoint by each task's metric."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tool_runs import CONFIGS, HEAD, METRIC, small
from torch import Tensor

import eomt_mm  # noqa: F401  before the hosts
from eomt_mm.apis import init_model, load_config
from eomt_mm.engine.layer_metrics import LayerMetric, LayerMetricsHook
from eomt_mm.models.heads import HostHead

# isort: split
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.hooks import EMAHook
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement

LOOP = 'train_cfg.type=eomt_mm.TrainLoop'
LAYER_METRICS = 'default_hooks.layer_metrics.type=eomt_mm.LayerMetricsHook'
SAFE = 'default_hooks.checkpoint.type=eomt_mm.SafeCheckpointHook'


@pytest.fixture
def roots(coco_root: Path, ade20k_root: Path) -> dict[str, Path]:
    return dict(panoptic=coco_root, instance=coco_root, semantic=ade20k_root)


class Sum(BaseMetric):
    default_prefix = 'sum'

    def process(self, data_batch: Any, data_samples: Any) -> None:
        self.results += [sample['value'] * self.dataset_meta['factor'] for sample in data_samples]

    def compute_metrics(self, results: list[float]) -> dict[str, float]:
        return dict(total=sum(results))


def test_each_layer_has_its_own_metric_and_the_final_one_keeps_its_name() -> None:
    metric = Sum()
    evaluator = Evaluator([metric])
    evaluator.dataset_meta = dict(factor=10)
    evaluator.metrics = [LayerMetric(metric, 2)]
    for _ in range(2):  # a second validation begins from nothing
        for value in (1, 2):
            layers = [dict(value=value + 0.5), dict(value=value + 0.25)]
            evaluator.process([BaseDataElement(value=value, layer_predictions=layers)])
        found = evaluator.evaluate(2)
        assert list(found.items()) == [('sum/total', 30), ('layer0/sum/total', 40), ('layer1/sum/total', 35)]


@pytest.mark.parametrize('task', CONFIGS)
def test_layer_predictions_are_those_of_the_layers(task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {'img_size': 64, 'model.backbone.depth': 3, f'model.{HEAD[task]}.num_blocks': 2}
    model = init_model(load_config(CONFIGS[task], options))
    head: HostHead = getattr(model, HEAD[task])
    torch.nn.init.normal_(head.class_predictor.weight, std=20)
    head.score_thr = head.overlap_thr = 0.0  # predictions that are not empty
    data = dict(inputs=[torch.randint(256, (3, 64, 40 + 20 * i), dtype=torch.uint8) for i in range(2)])
    with torch.no_grad():
        plain = model.test_step(copy.deepcopy(data))
        head.predict_intermediate = True
        layers = []
        for sample, published in zip(model.test_step(copy.deepcopy(data)), plain, strict=True):
            field = next(iter(sample.layer_predictions[0]))
            assert field.startswith('pred_') and set(sample.layer_predictions[0]) == {field}
            assert equal(sample.get(field).to_dict(), published.get(field).to_dict())
            layers.append(sample.layer_predictions)
            assert 'layer_predictions' not in published and len(sample.layer_predictions) == 2

        # the same, from each layer's logits alone
        inputs = model.data_preprocessor(copy.deepcopy(data))
        class_logits, mask_logits = model.extract_feat(inputs['inputs'])
        for i in range(2):
            alone = head.predict(([class_logits[i]], [mask_logits[i]]), copy.deepcopy(inputs['data_samples']))
            for sample, found in zip(alone, layers, strict=True):
                assert equal(sample.get(field).to_dict(), found[i][field])
    assert not all(equal(found[0][field], found[1][field]) for found in layers)


def equal(one: dict[str, Any], other: dict[str, Any]) -> bool:
    assert one.keys() == other.keys()
    tensors = [name for name, value in one.items() if isinstance(value, Tensor)]
    assert tensors
    return all(torch.equal(one[name], other[name]) for name in tensors)


def records(work_dir: Path) -> list[dict[str, float]]:
    """What all runs in a folder have logged in training and validation."""
    return [json.loads(line) for file in sorted(work_dir.glob('*/vis_data/scalars.json')) for line in file.open()]


@pytest.mark.parametrize('task', CONFIGS)
def test_layers_are_validated_and_the_best_checkpoint_is_kept(
    task: str, tool: Callable, roots: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Together, since each needs a run; scores of the metric are given so that the first of two is the better."""
    scores = iter([0.7, 0.4])
    evaluate = Evaluator.evaluate

    def scored(self: Evaluator, size: int) -> dict[str, float]:
        found = evaluate(self, size)
        assert METRIC[task] in found
        return {**found, METRIC[task]: next(scores)}

    monkeypatch.setattr(Evaluator, 'evaluate', scored)
    best = [f'default_hooks.checkpoint.{name}' for name in (f'save_best={METRIC[task]}', 'rule=greater')]
    options = [*small(task, 2), 'train_cfg.val_interval=1', LOOP, SAFE, LAYER_METRICS, *best]
    options.append(f'model.{HEAD[task]}.num_blocks=2')
    tool('train.py', CONFIGS[task], '--data-root', roots[task], '--work-dir', tmp_path, '--cfg-options', *options)
    found = [record for record in records(tmp_path) if 'loss' not in record]
    assert len(found) == 2
    assert all({f'layer{i}/{METRIC[task]}' for i in range(2)} <= set(record) for record in found)
    assert not any('layer2' in name for record in found for name in record)
    name = f'best_{METRIC[task]}_iter_1.pth'.replace('/', '_')
    assert [path.name for path in tmp_path.glob('best_*')] == [name]
    saved = torch.load(tmp_path / name, weights_only=True)
    assert saved['meta']['iter'] == 1

    # losses of every layer are logged in training
    names = {prefix + name for prefix in ('d0.', 'd1.', '') for name in ('loss_cls', 'loss_mask', 'loss_dice')}
    logged = [record for record in records(tmp_path) if 'loss' in record]
    assert [{name for name in record if 'loss_' in name} for record in logged] == [names, names]
    assert logged[0]['loss'] == pytest.approx(sum(logged[0][name] for name in names), rel=1e-4)


def test_intermediate_predictions_are_off_outside_of_validation() -> None:
    model = init_model(load_config(CONFIGS['panoptic'], {'img_size': 64, 'model.backbone.depth': 2}))
    metric, hook = Sum(), LayerMetricsHook()
    evaluator = Evaluator([metric])
    runner: Any = type('Run', (), dict(model=model, val_loop=type('Loop', (), dict(evaluator=evaluator))))
    for _ in range(2):
        hook.before_val(runner)
        assert model.panoptic_head.predict_intermediate
        [multiplied] = evaluator.metrics
        assert multiplied.final is metric and len(multiplied.earlier) == model.panoptic_head.num_blocks
        hook.after_val(runner)
        assert not model.panoptic_head.predict_intermediate


# ---- averaged weights

EMA = ['default_hooks.ema.type=EMAHook', 'default_hooks.ema.momentum=0.3', 'default_hooks.checkpoint.interval=1']


def load(path: Path) -> dict[str, Any]:
    return torch.load(path, weights_only=True)


def test_weights_are_averaged_and_mask_probabilities_are_not() -> None:
    model = init_model(load_config(CONFIGS['panoptic'], {'img_size': 64, 'model.backbone.depth': 2}))
    head, runner = model.panoptic_head, SimpleNamespace(model=model, iter=0)
    hook = EMAHook(momentum=0.3)
    hook.before_run(runner)
    with torch.no_grad():
        for value, prob in ((1.0, 0.75), (2.0, 0.5)):
            head.queries.weight.fill_(value)
            head.set_attn_mask_probs([prob, prob])
            hook.after_train_iter(runner, 0)
    hook.before_val_epoch(runner)  # the model is the averaged one now
    torch.testing.assert_close(head.queries.weight, torch.full_like(head.queries.weight, 0.7 * 1.0 + 0.3 * 2.0))
    assert head.attn_mask_probs.tolist() == [0.5, 0.5]
    hook.after_val_epoch(runner)
    assert (head.queries.weight == 2).all() and head.attn_mask_probs.tolist() == [0.5, 0.5]


@pytest.mark.slow
def test_averaged_weights_are_validated_saved_and_resumed(
    tool: Callable, coco_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """mmengine's EMAHook; masks anneal meanwhile, whose buffer follows the model."""
    validated: list[dict[str, Tensor]] = []

    def remember(self: Any, runner: Runner, *_: Any, **__: Any) -> None:
        validated.append({name: value.clone() for name, value in runner.model.state_dict().items()})

    monkeypatch.setattr('mmengine.hooks.LoggerHook.after_val_iter', remember)
    annealing = ['mask_annealing.starts=[0,0]', 'mask_annealing.ends=[0.75,1]', 'model.panoptic_head.num_blocks=2']
    options = [*small('panoptic', 3), LOOP, SAFE, *EMA, *annealing, 'train_cfg.val_interval=3']
    options += ['default_hooks.checkpoint.max_keep_ckpts=9']
    common = ['--data-root', coco_root, '--cfg-options', *options]
    tool('train.py', CONFIGS['panoptic'], '--work-dir', tmp_path / 'a', *common)
    steps = [load(tmp_path / 'a' / f'iter_{i}.pth') for i in range(1, 4)]

    # the average by definition: `state_dict` has it, `ema_state_dict` the weights that are trained
    def trained(i: int, name: str) -> Tensor:
        return steps[i]['ema_state_dict'][f'module.{name}']

    probs = 'panoptic_head.attn_mask_probs'
    names = [name for name in steps[0]['state_dict'] if name != probs]
    average = {name: trained(0, name) for name in names}
    for i in range(1, 3):
        average = {name: value + 0.3 * (trained(i, name) - value) for name, value in average.items()}
    for name, value in average.items():
        torch.testing.assert_close(steps[2]['state_dict'][name], value, rtol=0, atol=1e-6)
    assert any(not torch.equal(average[name], trained(2, name)) for name in names)
    assert validated and all(torch.equal(validated[0][name], steps[2]['state_dict'][name]) for name in names)
    # masks are off in evaluation; what counts is the value that training goes on with
    assert [trained(i, probs).tolist()[1] > 0 for i in range(3)] == [True, True, False]

    # interrupted after two steps, and resumed
    (tmp_path / 'b').mkdir()
    (tmp_path / 'b' / 'iter_2.pth').write_bytes((tmp_path / 'a' / 'iter_2.pth').read_bytes())
    resume = ['--work-dir', tmp_path / 'b', '--resume', tmp_path / 'b' / 'iter_2.pth']
    tool('train.py', CONFIGS['panoptic'], *resume, *common)
    resumed = load(tmp_path / 'b' / 'iter_3.pth')
    for key in ('state_dict', 'ema_state_dict'):
        assert resumed[key].keys() == steps[2][key].keys()
        assert not [name for name, value in resumed[key].items() if not torch.equal(value, steps[2][key][name])]
