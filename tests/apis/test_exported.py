"""Exported files in place of a checkpoint: same metrics, and what does not fit is named."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from export_runs import SIZE, model, pixels, relative, tool, vary_queries
from pycocotools import mask as mask_api
from tool_runs import CONFIGS, HEAD, METRIC, metrics, small

from eomt_mm.apis import init_model, load_config
from eomt_mm.apis.exported import ExportedNetwork, check_fit, pixels_of
from eomt_mm.apis.exporting import metadata_of, network_of
from eomt_mm.export import export_program, save_onnx
from eomt_mm.export.sessions import open_session
from eomt_mm.options import read_options

SETS = dict(panoptic='coco_root', instance='coco_root', semantic='ade20k_root')
RULES = dict(panoptic=dict(model__panoptic_head__score_thr=0.2, model__panoptic_head__overlap_thr=0.1))


def write_model(task: str, overrides: list[str], folder: Path) -> tuple[Path, Path]:
    """Write a tiny model that finds segments, as checkpoint and as exported file of one image per run."""
    built: Any = init_model(load_config(CONFIGS[task], read_options(overrides)))
    vary_queries(built, HEAD[task])
    checkpoint, file = folder / 'x.pth', folder / 'x.onnx'
    torch.save(dict(state_dict=built.state_dict()), checkpoint)
    network = network_of(built)
    save_onnx(export_program(network), network, file, metadata_of(built, network, None, dynamic_batch=False))
    return checkpoint, file


def found(task: str, prediction: dict[str, Any]) -> tuple[torch.Tensor, ...]:
    """What a prediction holds: a map, or labels and areas of the instances."""
    if task == 'instance':
        instances = prediction['pred_instances']
        return instances['labels'], torch.tensor([int(mask_api.area(mask)) for mask in instances['masks']])
    return ((prediction['pred_panoptic_seg']['sem_seg'] if task == 'panoptic' else prediction['pred_sem_seg']['data']),)


@pytest.mark.slow
@pytest.mark.parametrize('task', CONFIGS)
def test_same_results_as_the_checkpoint(
    task: str, tool: Callable, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    overrides = small(task, **RULES.get(task, {}))
    words = ['--data-root', request.getfixturevalue(SETS[task]), '--cfg-options', *overrides]
    dumped, measured = [], []
    for weights in write_model(task, overrides, tmp_path):
        dump, folder = tmp_path / f'{weights.suffix}.pkl', tmp_path / weights.suffix
        tool('test.py', CONFIGS[task], weights, '--work-dir', folder, '--dump', dump, *words)
        dumped.append(pickle.loads(dump.read_bytes()))
        measured.append(metrics(folder))
    for ours, theirs in zip(*dumped, strict=True):
        for expected, values in zip(found(task, ours), found(task, theirs), strict=True):
            assert len(expected.unique()) > 1
            assert (values != expected).float().mean() < 0.01  # areas, and pixels at borders
    ours, theirs = ({name: value for name, value in one.items() if 'time' not in name} for one in measured)
    assert METRIC[task] in ours and theirs == pytest.approx(ours, abs=0.1, nan_ok=True)


@pytest.mark.slow
@pytest.mark.parametrize('dynamic_batch', [False, True])
def test_same_logits_as_the_network(dynamic_batch: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('eomt_mm.export.onnx.step_graphs', lambda *_: {})  # they take long, and are not run here
    built, path = model('panoptic', 2), tmp_path / 'x.onnx'
    network = network_of(built)
    save_onnx(export_program(network, dynamic_batch), network, path, metadata_of(built, network, None, dynamic_batch))
    preprocessor = built.data_preprocessor
    inputs = (pixels(3, 3, SIZE, SIZE).float() - preprocessor.mean) / preprocessor.std
    with torch.no_grad():
        expected = built.extract_feat(inputs)
    for (values,), ours in zip(ExportedNetwork(path, built)(inputs), expected, strict=True):
        assert relative(values, ours[-1]) < 1e-4


def test_pixels_are_exact() -> None:
    preprocessor = model('semantic', 3).data_preprocessor
    images = torch.arange(256, dtype=torch.uint8).expand(3, 1, 256)[None]
    inputs = (images.float() - preprocessor.mean) / preprocessor.std
    assert (pixels_of(inputs, preprocessor.mean, preprocessor.std) == images.numpy()).all()


def test_files_that_do_not_fit_are_refused() -> None:
    built = model('panoptic', 2)
    classes = list(built.dataset_meta['classes'])
    fitting = metadata_of(built, network_of(built), None, dynamic_batch=False)
    check_fit('x.onnx', fitting, built, classes)
    swapped = [classes[1], classes[0], *classes[2:]]
    wrong: dict[str, dict[str, Any]] = {
        'without --with-postprocess': dict(postprocess_in_graph=True),
        'task semantic, and the config has panoptic': dict(task='semantic'),
        r'size \(48, 96\)': dict(input=dict(size=[48, 96])),
        'number of classes 3, and the config has 133': dict(classes=['a', 'b', 'c']),
        "'bicycle' is class 0": dict(classes=swapped),
    }
    for message, difference in wrong.items():
        with pytest.raises(ValueError, match=message):
            check_fit('x.onnx', {**fitting, **difference}, built, classes)


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r'none\.xml does not exist'):
        open_session(tmp_path / 'none.xml')
    (tmp_path / 'x.pt2').touch()
    with pytest.raises(ValueError, match=r'x\.pt2: give one of \.onnx, \.xml'):
        open_session(tmp_path / 'x.pt2')
    for name in ('x.onnx', 'x.xml'):
        (tmp_path / name).write_text('<net/>')
        with pytest.raises(ValueError, match=rf'{name} cannot be read [^\n]*export it again$'):
            open_session(tmp_path / name)
        with pytest.raises(ValueError, match=rf'{name} cannot be read [^\n]*export it again$'):
            tool('run_exported').open_model(tmp_path / name)
