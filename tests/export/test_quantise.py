"""tools/export.py --quantize: 8-bit linear layers near the float results; what is refused before the model is built."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import openvino
import pytest
import torch
from export_runs import SIZE, WIDE, checkpoint, config, expected_logits, image_file, model, options, pixels, tool

from eomt_mm.export import FORMATS
from eomt_mm.export.quantise import PRODUCTS
from eomt_mm.export.sessions import open_session


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Calls the tool with a tiny model's config and weights; gives what it printed."""
    for name in ('onnx', 'openvino'):  # steps take long, and are not run here
        monkeypatch.setattr(f'eomt_mm.export.{name}.step_graphs', lambda *_: {})
    (tmp_path / 'photos').mkdir()
    (tmp_path / 'empty').mkdir()
    for seed in range(3):
        image_file(tmp_path / 'photos', (50, 80), seed)

    def call(task: str, family: int, *words: Any) -> str:
        overrides = [f'{key}={value}' for key, value in options(task).items()]
        arguments = [config(task, family), checkpoint(task, family, tmp_path), *words, '--cfg-options', *overrides]
        monkeypatch.setattr('sys.argv', ['export.py', *map(str, arguments)])
        module = tool('export')
        module.main(module.parse_args())
        return capsys.readouterr().out

    return call


def in_8_bits(path: Path) -> tuple[int, int]:
    """Numbers of products that read 8-bit values, and of others."""
    if path.suffix == '.onnx':
        graph = onnx.load(path).graph
        made_by = {name: node.op_type for node in graph.node for name in node.output}
        read = [[made_by.get(name) for name in node.input] for node in graph.node if node.op_type == 'MatMul']
    else:
        nodes = [
            node for node in openvino.Core().read_model(path).get_ordered_ops() if node.get_type_name() in PRODUCTS
        ]
        read = [
            [node.input_value(k).get_node().get_type_name() for k in range(node.get_input_size())] for node in nodes
        ]
    eight = [bool({'DequantizeLinear', 'FakeQuantize'} & set(kinds)) for kinds in read]
    return eight.count(True), eight.count(False)


@pytest.mark.slow
@pytest.mark.parametrize(
    ('name', 'task', 'family', 'products_of_attention'),
    [
        ('onnx', 'panoptic', 2, 2), ('onnx', 'semantic', 3, 2),
        ('openvino', 'panoptic', 3, 1), ('openvino', 'semantic', 2, 1), ('openvino', 'instance', 2, 1),
    ],
)  # fmt: skip
def test_linear_layers_are_quantised(
    name: str, task: str, family: int, products_of_attention: int, run: Callable[..., str], tmp_path: Path
) -> None:
    path, floats = (tmp_path / f'{stem}{FORMATS[name].suffix}' for stem in ('x', 'float'))
    words = ['--format', name, '--dynamic-batch', '--size', *WIDE]
    told = run(task, family, *words, '--out', path, '--quantize', 'int8', '--calibration', tmp_path / 'photos')
    assert 'quantised with 3 images' in told
    run(task, family, *words, '--out', floats)
    sizes = [sum(file.stat().st_size for file in FORMATS[name].files(one) if file.exists()) for one in (path, floats)]
    assert sizes[0] < sizes[1]
    # of 2 blocks: qkv, proj and 2 of the MLP; class predictor and 3 of the mask MLP; attention and masks stay in float
    assert in_8_bits(path) == (2 * 4 + 4, 2 * products_of_attention + 1)
    session = open_session(path, threads=1)
    assert session.metadata['quantised'] == 'int8' and session.metadata['task'] == task
    assert open_session(floats, threads=1).metadata['quantised'] is None
    images = pixels(2, 3, *WIDE, seed=1)
    for found, expected in zip(
        session.run(images.numpy()).values(), expected_logits(model(task, family), images), strict=True
    ):
        spread = (expected - expected.mean()).norm()
        assert 1e-4 < (torch.from_numpy(found) - expected).norm() / spread < 0.2


@pytest.mark.slow
@pytest.mark.parametrize('task', ['semantic', 'instance', 'panoptic'])
def test_with_postprocessing(task: str, run: Callable[..., str], tmp_path: Path) -> None:
    path = tmp_path / 'x.onnx'
    run(task, 2, '--with-postprocess', '--out', path, '--quantize', 'int8', '--calibration', tmp_path / 'photos')
    found = open_session(path, threads=1).run(pixels(1, 3, SIZE, SIZE).numpy())
    assert {name.partition('_')[0] for name in found} & {'label', 'masks', 'segment'}


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        (['--quantize', 'int8'], '--quantize int8 needs --calibration'),
        (['--calibration', 'photos'], '--calibration and --samples need --quantize int8'),
        (['--samples', '5'], '--calibration and --samples need --quantize int8'),
        (['--quantize', 'int8', '--calibration', 'photos', '--half'], '--half: the parts that stay in float'),
        (['--quantize', 'int8', '--calibration', 'none'], "input '.*none' does not exist"),
        (['--quantize', 'int8', '--calibration', 'none.py'], 'none.py'),
        (['--quantize', 'int8', '--calibration', 'empty'], 'holds no images'),
        (['--quantize', 'int8', '--calibration', 'photos', '--format', 'torch-export'], '--quantize does not apply'),
    ],
)
def test_refused_before_the_model_is_built(
    words: list[str], message: str, run: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(*_: Any) -> None:
        raise AssertionError

    monkeypatch.setattr(tool('export'), 'init_model', build)
    places = {'photos', 'none', 'none.py', 'empty'}
    given = [tmp_path / word if word in places else word for word in words]
    out = tmp_path / ('x.pt2' if 'torch-export' in words else 'x.onnx')
    with pytest.raises(SystemExit, match=f'^export: .*{message}'):
        run('panoptic', 2, *given, '--out', out)
    assert not out.exists()


def test_samples_below_1_are_refused(run: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        run('panoptic', 2, '--samples', 0, '--out', tmp_path / 'x.onnx')
    assert "'0': a whole number of at least 1" in capsys.readouterr().err
