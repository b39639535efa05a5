"""The exportable network: equal to the model, with positions of its size, and results in the graph equal to ours."""

import json
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from export_runs import SIZE, WIDE, checkpoint, config, expected_logits, model, options, pixels, relative, tool
from torch import Tensor, nn

from eomt_mm.apis.exporting import metadata_of, network_of
from eomt_mm.core.geometry import resize
from eomt_mm.core.postprocess import instance_prediction, panoptic_prediction, semantic_scores
from eomt_mm.export.checks import check_results
from eomt_mm.export.metadata import FORMAT, KEY, as_text
from eomt_mm.export.postprocess import PanopticMap, SemanticLabels, TopInstances
from eomt_mm.export.program import export_program, run_program, save_program
from eomt_mm.export.sessions import Session


@pytest.mark.parametrize('size', [None, WIDE, 32])
@pytest.mark.parametrize('family', [2, 3])
def test_network_is_the_model_on_uint8_images(family: int, size: Any) -> None:
    built = model('panoptic', family)
    before = {name: value.clone() for name, value in built.state_dict().items()}
    network = network_of(built, size)
    assert network.size == ((SIZE, SIZE) if size is None else (32, 32) if size == 32 else WIDE)
    images = pixels(2, 3, *network.size)
    for found, expected in zip(network(images), expected_logits(built, images), strict=True):
        assert relative(found, expected) < 1e-6
    assert all(torch.equal(value, before[name]) for name, value in built.state_dict().items())
    assert built.backbone.vit.dynamic_img_size and not any(p.requires_grad for p in network.parameters())


def test_intermediate_predictions_are_left_out() -> None:
    built = model('instance', 2)
    head = built.panoptic_head
    head.predict_intermediate = True
    try:
        network = network_of(built)
        assert len(network(pixels(1, 3, SIZE, SIZE))) == 2
    finally:
        head.predict_intermediate = False


def test_sizes_and_models_that_do_not_fit_are_refused() -> None:
    built = model('semantic', 2)
    with pytest.raises(
        ValueError, match=r'size=60 x 100: both sides must be multiples of the patch size, 16; near .* 64 x 96'
    ):
        network_of(built, (60, 100))
    with pytest.raises(ValueError, match='model Linear is not exported here'):
        network_of(nn.Linear(1, 1))


def logits(num_classes: int, sharpness: float = 3.0, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Of 3 images and 21 queries (more than one part); the last image keeps none."""
    generator = torch.Generator().manual_seed(seed)
    class_logits = sharpness * torch.randn(3, 21, num_classes + 1, generator=generator)
    class_logits[2, :, -1] = 50
    return class_logits, 4 * torch.randn(3, 21, 8, 12, generator=generator) - 4


def test_label_map_is_the_best_class() -> None:
    found = SemanticLabels()(*logits(5), (32, 48))[0]
    assert found.dtype == torch.int32 and torch.equal(found.long(), semantic_scores(*logits(5), (32, 48)).argmax(1))


@pytest.mark.parametrize('max_per_image', [1, 40, 1000])
def test_instances_are_those_of_our_function(max_per_image: int) -> None:
    class_logits, mask_logits = logits(4)
    labels, scores, masks = TopInstances(max_per_image)(class_logits, mask_logits, (32, 48))
    for i in range(3):
        expected = instance_prediction(
            class_logits[i], mask_logits[i], lambda maps: resize(maps, (32, 48)), max_per_image
        )
        assert torch.equal(labels[i], expected.labels) and torch.equal(masks[i], expected.masks)
        torch.testing.assert_close(scores[i], expected.scores, rtol=1e-5, atol=0)


@pytest.mark.parametrize('overlap_thr', [0.0, 0.5, 0.8])
@pytest.mark.parametrize('num_things', [0, 2, 5])
def test_panoptic_map_is_that_of_our_function(num_things: int, overlap_thr: float) -> None:
    class_logits, mask_logits = logits(5)
    outputs = PanopticMap(num_things, 0.5, overlap_thr)(class_logits, mask_logits, (32, 48))
    counts = []
    for i, (segment_map, ids, labels, scores) in enumerate(zip(*outputs, strict=True)):
        expected_map, segments = panoptic_prediction(
            class_logits[i], mask_logits[i], lambda maps: resize(maps, (32, 48)), num_things, 0.5, overlap_thr
        )
        assert torch.equal(segment_map, expected_map)
        opened = ids.nonzero().flatten()
        assert ids[opened].tolist() == [segment.id for segment in segments]
        assert labels[opened].tolist() == [segment.label for segment in segments]
        assert scores[opened].tolist() == [segment.score for segment in segments]
        counts.append(len(segments))
    assert counts[0] > 1
    assert counts[2] == 0


def test_metadata_says_what_a_runtime_needs() -> None:
    built = model('panoptic', 2)
    meta = metadata_of(built, network_of(built, WIDE, with_postprocess=True, half=True), 'folder/my.pth', True)
    assert json.loads(as_text(meta)) == meta
    assert meta['format'] == FORMAT and meta['config'] == config('panoptic', 2).name and meta['weights'] == 'my.pth'
    assert meta['task'] == 'panoptic' and len(meta['classes']) == len(meta['palette']) == 133
    assert meta['num_things'] == 80 and (meta['score_thr'], meta['overlap_thr']) == (0.3, 0.1)
    assert meta['input']['size'] == list(WIDE) and meta['geometry'] == 'padding'
    assert (
        meta['quantised'] is None and metadata_of(built, network_of(built), None, True, 'int8')['quantised'] == 'int8'
    )
    assert meta['mean'] == pytest.approx([123.675, 116.28, 103.53]) and meta['half'] and meta['postprocess_in_graph']
    built = model('semantic', 3)
    meta = metadata_of(built, network_of(built), None, False)
    assert meta['geometry'] == 'windows' and meta['num_things'] == 0 and meta['weights'] == 'random'
    assert (
        not meta['half']
        and not meta['postprocess_in_graph']
        and list(meta['outputs']) == ['class_logits', 'mask_logits']
    )


@pytest.mark.parametrize('task', ['semantic', 'panoptic'])
def test_weights_that_give_nan_are_refused(task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A label map, which is whole numbers, does not show them."""
    network = network_of(model(task, 2), with_postprocess=task == 'semantic', half=task == 'panoptic')
    network.head.class_predictor.bias.fill_(float('nan'))
    session = Session(
        dict(outputs=list(network.postprocess.outputs)),
        lambda images: [value.nan_to_num(0).numpy() for value in network(torch.from_numpy(images))],
    )
    monkeypatch.setattr('eomt_mm.export.checks.open_session', lambda *_: session)
    message = 'x.{} is not written: in PyTorch, results are NaN or infinite'
    with pytest.raises(ValueError, match=message.format('onnx')):
        check_results(network, tmp_path / 'x.onnx', dynamic_batch=True)
    with pytest.raises(ValueError, match=message.format('pt2')):
        save_program(Mock(), network, tmp_path / 'x.pt2', {})
    assert not list(tmp_path.iterdir())


@pytest.mark.slow  # the contract exports every architecture
def test_program_runs_any_batch_and_carries_its_metadata(tmp_path: Path) -> None:
    task, built = 'panoptic', model('panoptic', 3)
    network = network_of(built, WIDE)
    save_program(export_program(network, dynamic_batch=True), network, tmp_path / 'x.pt2', dict(task=task))
    extra = {KEY: ''}
    loaded = torch.export.load(tmp_path / 'x.pt2', extra_files=extra).module()
    for batch, run in ((1, loaded), (4, partial(run_program, tmp_path / 'x.pt2'))):
        images = pixels(batch, 3, *WIDE, seed=batch)
        with torch.no_grad():
            outputs = run(images)
        for found, expected in zip(outputs, expected_logits(built, images), strict=True):
            assert relative(found, expected) < 1e-5
    assert json.loads(extra[KEY]) == dict(task=task)
    assert [path.name for path in tmp_path.iterdir()] == ['x.pt2']


@pytest.mark.slow
def test_tool_writes_a_half_program_with_results(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    overrides = [f'{key}={value}' for key, value in options('semantic').items()]
    words = ['--format', 'torch-export', '--half', '--with-postprocess', '--out', str(tmp_path / 'x.pt2')]
    path = checkpoint('semantic', 2, tmp_path)
    monkeypatch.setattr(
        'sys.argv', ['export.py', str(config('semantic', 2)), str(path), *words, '--cfg-options', *overrides]
    )
    module = tool('export')
    module.main(module.parse_args())
    assert 'label_map, int32' in capsys.readouterr().out
    images = pixels(1, 3, SIZE, SIZE)
    (found,) = run_program(tmp_path / 'x.pt2', images)
    class_logits, mask_logits = expected_logits(model('semantic', 2), images)
    expected = semantic_scores(class_logits, mask_logits, (SIZE, SIZE)).argmax(1)
    assert (found == expected).float().mean() > 0.98 and len(expected.unique()) > 3
