"""tools/export.py --format onnx: agreement with PyTorch, one file for every batch size, what it says and refuses."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from export_runs import SIZE, WIDE, checkpoint, config, expected_logits, model, options, pixels, relative, tool

from eomt_mm.apis.exporting import network_of
from eomt_mm.export import onnx as export_onnx
from eomt_mm.export.metadata import KEY
from eomt_mm.export.sessions import Session

GRID = [
    (task, family, size) for task in ('semantic', 'instance', 'panoptic') for family in (2, 3) for size in (None, WIDE)
]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Calls the tool with a tiny model's config and weights; gives what it printed.

    Without the steps of the post-processing, which take most of the time: the tests of the runner export them.
    """
    monkeypatch.setattr(export_onnx, 'step_graphs', lambda *args: {})

    def call(task: str, family: int, *words: Any, weights: Any = None) -> str:
        overrides = [f'{key}={value}' for key, value in options(task).items()]
        weights = weights or checkpoint(task, family, tmp_path)
        arguments = [config(task, family), weights, *words, '--cfg-options', *overrides]
        monkeypatch.setattr('sys.argv', ['export.py', *map(str, arguments)])
        module = tool('export')
        module.main(module.parse_args())
        return capsys.readouterr().out

    return call


def outputs(path: Path, images: torch.Tensor) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(str(path), providers=['CPUExecutionProvider'])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, dict(images=images.numpy())), strict=True))


@pytest.mark.slow  # the runner's tests export and compare one
@pytest.mark.parametrize(('task', 'family', 'size'), GRID)
def test_onnxruntime_agrees_with_the_model(task: str, family: int, size: Any, run: Any, tmp_path: Path) -> None:
    path = tmp_path / 'x.onnx'
    told = run(task, family, '--dynamic-batch', *(('--size', *size) if size else ()), '--out', path)
    assert 'difference to PyTorch' in told and 'WARNING' not in told
    size = size or (SIZE, SIZE)
    for batch in (1, 4):
        images = pixels(batch, 3, *size, seed=batch)
        images[-1] = 255 - images[-1]  # not all the same
        for found, expected in zip(
            outputs(path, images).values(), expected_logits(model(task, family), images), strict=True
        ):
            assert relative(torch.from_numpy(found), expected) < 1e-4
    file = onnx.load(path)
    onnx.checker.check_model(file, full_check=True)
    for value in (*file.graph.input, *file.graph.output):
        assert value.type.tensor_type.shape.dim[0].dim_param == 'batch'
    operators = {node.op_type for node in file.graph.node}
    assert not operators & {'If', 'Loop', 'Scan', 'Resize', 'Sin'}  # positions are constants
    assert [(entry.domain, entry.version) for entry in file.opset_import] == [('', export_onnx.OPSET)]
    meta = json.loads({entry.key: entry.value for entry in file.metadata_props}[KEY])
    assert meta['task'] == task and meta['opset'] == export_onnx.OPSET and meta['dynamic_batch']
    assert sorted(p.name for p in tmp_path.iterdir()) == [f'{task}{family}.pth', 'x.onnx']


@pytest.mark.slow
@pytest.mark.parametrize(
    ('task', 'family'),
    [
        ('panoptic', 2),
        pytest.param('panoptic', 3, marks=pytest.mark.slow),
        pytest.param('instance', 2, marks=pytest.mark.slow),
        pytest.param('instance', 3, marks=pytest.mark.slow),
        pytest.param('semantic', 2, marks=pytest.mark.slow),
        pytest.param('semantic', 3, marks=pytest.mark.slow),
    ],
)
def test_results_in_the_graph(task: str, family: int, run: Any, tmp_path: Path) -> None:
    run(task, family, '--dynamic-batch', '--with-postprocess', '--out', tmp_path / 'x.onnx')
    network = network_of(model(task, family), with_postprocess=True)
    for batch in (1, 4):
        images = torch.cat([pixels(1, 3, SIZE, SIZE, seed=seed) for seed in range(batch)])
        with torch.no_grad():
            expected = network(images)
        for name, found, values in zip(
            network.postprocess.outputs, outputs(tmp_path / 'x.onnx', images).values(), expected, strict=True
        ):
            values = values.numpy()
            assert found.shape == values.shape and found.dtype == values.dtype, name
            if found.dtype == np.float32:
                np.testing.assert_allclose(found, values, rtol=1e-4)
            else:
                assert (found == values).mean() > 0.999, name
                assert values.any()


@pytest.mark.slow
@pytest.mark.parametrize('task', ['semantic', 'instance', 'panoptic'])
@pytest.mark.parametrize('family', [2, 3])
def test_half_is_near_float32(task: str, family: int, run: Any, tmp_path: Path) -> None:
    run(task, family, '--half', '--out', tmp_path / 'half.onnx')
    run(task, family, '--out', tmp_path / 'whole.onnx')
    sizes = [(tmp_path / name).stat().st_size for name in ('half.onnx', 'whole.onnx')]
    assert sizes[0] < 0.75 * sizes[1]
    kinds = {t.data_type for t in onnx.load(tmp_path / 'half.onnx').graph.initializer if len(t.dims) > 1}
    assert onnx.TensorProto.FLOAT16 in kinds
    images = pixels(1, 3, SIZE, SIZE)
    for found, expected in zip(
        outputs(tmp_path / 'half.onnx', images).values(), expected_logits(model(task, family), images), strict=True
    ):
        assert found.dtype == np.float32 and relative(torch.from_numpy(found), expected) < 3e-2


@pytest.mark.slow
def test_random_weights_are_told_and_large_ones_lie_beside_the_file(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr('torch.onnx._internal.exporter._onnx_program._LARGE_MODEL_THRESHOLD', 1024)
    told = run('instance', 2, '--out', tmp_path / 'x.onnx', weights='none')
    assert 'WARNING: random weights' in told
    assert sorted(path.name for path in tmp_path.iterdir()) == ['x.onnx', 'x.onnx.data']
    assert set(outputs(tmp_path / 'x.onnx', pixels(1, 3, SIZE, SIZE))) == {'class_logits', 'mask_logits'}
    with pytest.raises(Exception, match='Got: 2 Expected: 1'):
        outputs(tmp_path / 'x.onnx', pixels(2, 3, SIZE, SIZE))


class Converted:
    """What torch's exporter returns, in no time."""

    def __init__(self) -> None:
        self.model = SimpleNamespace(metadata_props={})

    def save(self, path: Path) -> None:
        value = onnx.helper.make_tensor_value_info('images', onnx.TensorProto.FLOAT, [1])
        same = onnx.helper.make_node('Identity', ['images'], ['class_logits'])
        given = onnx.helper.make_tensor_value_info('class_logits', onnx.TensorProto.FLOAT, [1])
        onnx.save(onnx.helper.make_model(onnx.helper.make_graph([same], 'x', [value], [given])), path)


NAN = 'x.onnx is not written: in the runtime, results are NaN or infinite'


@pytest.mark.parametrize(
    ('words', 'value', 'message'),
    [
        ([], 1e6, 'the .onnx file differs from PyTorch by'),
        ([], np.nan, NAN),
        (['--half'], np.inf, NAN),
        (['--with-postprocess'], np.nan, NAN),
    ],
)
def test_a_file_that_differs_from_pytorch_is_not_written(
    words: list[str], value: float, message: str, run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / 'x.onnx').write_text('old')
    monkeypatch.setattr(tool('export'), 'export_program', lambda *args: None)
    monkeypatch.setattr('torch.onnx.export', lambda *args, **kwargs: Converted())
    outputs = [str(number) for number in range(3 if '--with-postprocess' in words else 2)]
    wrong = Session(dict(outputs=outputs), lambda images: [np.full(1, value, np.float32)] * len(outputs))
    monkeypatch.setattr('eomt_mm.export.checks.open_session', lambda *args: wrong)
    with pytest.raises(SystemExit, match=f'^export: {message}'):
        run('instance', 2, *words, '--out', tmp_path / 'x.onnx', weights='none')
    assert [path.name for path in tmp_path.iterdir()] == ['x.onnx'] and (tmp_path / 'x.onnx').read_text() == 'old'


def test_old_weights_beside_the_file_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once the new file is checked; weights that were written aside replace them."""
    path, data = tmp_path / 'x.onnx', tmp_path / 'x.onnx.data'
    converted = Converted()
    monkeypatch.setattr('torch.onnx.export', lambda *args, **kwargs: converted)
    monkeypatch.setattr(export_onnx, 'step_graphs', lambda *args: {})
    metadata = dict(dynamic_batch=False)

    def save() -> None:
        export_onnx.save_onnx(Mock(), network_of(model('instance', 2)), path, metadata)

    data.write_text('old')
    monkeypatch.setattr(export_onnx, 'check_results', Mock(side_effect=ValueError('differs')))
    with pytest.raises(ValueError, match='differs'):
        save()
    assert data.read_text() == 'old'
    monkeypatch.setattr(export_onnx, 'check_results', lambda *args: {})
    save()
    assert path.exists() and not data.exists()
    write = converted.save
    monkeypatch.setattr(converted, 'save', lambda at: (write(at), at.with_name(data.name).write_text('new')))
    save()
    assert data.read_text() == 'new'


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        (['--out', 'x.pt2'], r'--out x.pt2: --format onnx writes .onnx files; name it x.onnx'),
        (['--format', 'torch-export', '--out', 'x.onnx'], r'name it x.pt2'),
        (['--size', '60', '64', '--out', 'x.onnx'], r'size=60 x 64: both sides must be multiples'),
    ],
)
def test_wrong_arguments_are_one_line(words: list[str], message: str, run: Any) -> None:
    with pytest.raises(SystemExit, match=f'^export: .*{message}[^\n]*$'):
        run('semantic', 2, *words, weights='none')
    assert not Path('x.onnx').exists()


def test_a_missing_checkpoint_or_package_is_one_line(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit, match=r'^export: checkpoint \S*nowhere.pth does not exist[^\n]*$'):
        run('semantic', 2, '--out', tmp_path / 'x.onnx', weights=tmp_path / 'nowhere.pth')
    monkeypatch.setattr('eomt_mm.export.formats.find_spec', lambda name: None)
    missing = r'--format onnx needs onnx, onnxscript, onnxruntime, .*\[export\]'
    with pytest.raises(SystemExit, match=rf'^export: {missing}[^\n]*$'):
        run('semantic', 2, '--out', tmp_path / 'x.onnx', weights='none')
