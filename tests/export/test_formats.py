"""The table of formats: options are refused before a runtime is imported; weights beside a file replace no input."""

import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from export_runs import SIZE, config, model, options, pixels, tool

from eomt_mm.apis.exporting import metadata_of, network_of
from eomt_mm.export import FORMATS, openvino as export_openvino
from eomt_mm.export.program import export_program
from eomt_mm.export.sessions import Session, open_session


@pytest.mark.parametrize('name', FORMATS)
def test_every_format_writes_by_itself(name: str) -> None:
    assert callable(FORMATS[name].save) and FORMATS[name].suffix.startswith('.')


def test_options_are_refused_before_a_runtime_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, 'openvino', None)
    with pytest.raises(ValueError, match='--no-such does not apply to --format openvino'):
        FORMATS['openvino'].check(['--no-such'])


def test_runtimes_report_nothing_to_their_makers() -> None:
    """By default both report each import. The runner's tests look at what is left on the disk."""
    assert export_openvino.openvino.tools.ovc.telemetry_utils.tm.__name__ == 'openvino.tools.ovc.telemetry_stub'
    assert os.environ['ORT_DISABLE_TELEMETRY'] == '1'


@pytest.mark.parametrize(
    ('format', 'out', 'weights', 'checkpoint'),
    [
        ('openvino', 'm.xml', 'm.bin', 'm.bin'),
        ('onnx', 'm.onnx', 'm.onnx.data', 'm.onnx.data'),
        ('openvino', 'pytorch_model.xml', 'pytorch_model.bin', ''),  # the folder that holds it
    ],
)
def test_weights_beside_the_file_never_replace_the_checkpoint(
    format: str, out: str, weights: str, checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / weights).write_text('weights')
    words = [config('semantic', 2), tmp_path / checkpoint, '--format', format, '--out', tmp_path / out]
    monkeypatch.setattr('sys.argv', ['export.py', *map(str, words)])
    module = tool('export')
    with pytest.raises(SystemExit, match=f'^export: .*{weights} would replace the input'):
        module.main(module.parse_args())
    assert (tmp_path / weights).read_text() == 'weights'


@pytest.mark.slow
def test_openvino_that_differs_from_pytorch_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ('x.xml', 'x.bin'):
        (tmp_path / name).write_text('old')
    built = model('instance', 2)
    network = network_of(built)
    monkeypatch.setattr(export_openvino, 'step_graphs', lambda *_: {})
    wrong = Session(dict(outputs=['a', 'b']), lambda images: [x.numpy() + 1 for x in network(torch.from_numpy(images))])
    monkeypatch.setattr('eomt_mm.export.checks.open_session', lambda *_: wrong)
    with pytest.raises(ValueError, match='the .xml file differs from PyTorch by'):
        export_openvino.save_openvino(
            export_program(network), network, tmp_path / 'x.xml', metadata_of(built, network, None, False)
        )
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {'x.xml': 'old', 'x.bin': 'old'}


@pytest.mark.slow
@pytest.mark.parametrize('family', [2, 3])
@pytest.mark.parametrize('task', ['semantic', 'instance', 'panoptic'])
@pytest.mark.parametrize('words', [[], ['--with-postprocess'], ['--half']], ids=['logits', 'results', 'half'])
def test_openvino_takes_any_batch_of_any_size(
    words: list[str], task: str, family: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    size = (48, 96) if family == 2 else (SIZE, SIZE)
    overrides = [f'{key}={value}' for key, value in options(task).items()]
    given = [config(task, family), 'none', '--format', 'openvino', '--dynamic-batch', '--size', *size, *words]
    monkeypatch.setattr(
        'sys.argv', ['export.py', *map(str, given), '--out', str(tmp_path / 'x.xml'), '--cfg-options', *overrides]
    )
    monkeypatch.setattr(export_openvino, 'step_graphs', lambda *_: {})
    module = tool('export')
    monkeypatch.setattr(module, 'built_model', lambda _: model(task, family))
    module.main(module.parse_args())
    assert 'written' in capsys.readouterr().out
    network = network_of(model(task, family), size, with_postprocess='--with-postprocess' in words)
    for batch in (1, 3):
        images = pixels(batch, 3, *size, seed=batch)
        images[-1] = 255 - images[-1]
        found = open_session(tmp_path / 'x.xml').run(images.numpy())
        for ours, expected in zip(map(torch.from_numpy, found.values()), network(images), strict=True):
            assert ours.shape == expected.shape and ours.dtype == expected.dtype
            if expected.is_floating_point():
                assert (ours - expected).abs().max() < (3e-2 if words == ['--half'] else 1e-4) * expected.abs().max()
            else:
                assert (ours == expected).float().mean() > 0.999
