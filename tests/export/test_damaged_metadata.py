"""Metadata of an exported file that is damaged or hostile: one line that names the file, wherever it is opened."""

import base64
import json
from pathlib import Path
from typing import Any

import onnx
import pytest
from export_runs import tool
from onnx import TensorProto, helper

from eomt_mm.export.metadata import FORMAT, INPUT, KEY
from eomt_mm.export.sessions import open_session

OUTPUTS = ('class_logits', 'mask_logits')
META: dict[str, Any] = dict(
    format=FORMAT, task='panoptic', input=dict(size=[4, 6]), geometry='padding', postprocess_in_graph=False,
    classes=['a'], palette=[[1, 2, 3]], num_things=1, outputs=dict.fromkeys(OUTPUTS, ''), steps={}, half=False,
    dynamic_batch=False,
)  # fmt: skip


def model(text: str) -> onnx.ModelProto:
    """A network that returns its input twice."""
    nodes = [helper.make_node('Identity', [INPUT], [name]) for name in OUTPUTS]
    values = {name: helper.make_tensor_value_info(name, TensorProto.UINT8, [1, 3, 4, 6]) for name in (INPUT, *OUTPUTS)}
    graph = helper.make_graph(nodes, 'network', [values.pop(INPUT)], list(values.values()))
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 20)], ir_version=10)
    made.metadata_props.add(key=KEY, value=text)
    return made


def changed(**values: Any) -> str:
    return json.dumps({**META, **values})


ALL = {
    'empty': '',
    'cut': '{',
    'list': '[1]',
    'null': 'null',
    'deep': '[' * 100_000,
    'format only': json.dumps(dict(format=FORMAT)),
    'format of lines': json.dumps(dict(format='a\nb')),
    'size of words': changed(input=dict(size=['a', 'b'])),
    'size of fractions': changed(input=dict(size=[4.0, 6.0])),
    'huge size': changed(input=dict(size=[10**9, 10**9])),
    'long number': changed().replace('[4, 6]', f'[4, {"9" * 5000}]'),
    'one side': changed(input=dict(size=[4])),
    'no size': changed(input=[4, 6]),
    'fewer outputs': changed(outputs=dict(class_logits='')),
    'other outputs': changed(outputs=dict(class_logits='', masks='')),
    'outputs of numbers': changed(outputs=2),
    'classes of numbers': changed(classes=[1]),
    'task of a list': changed(task=[]),
}
OF_THE_RUNNER = {
    'unknown task': changed(task='pose'),
    'unknown geometry': changed(geometry='round'),
    'palette of two': changed(palette=[[1, 2]]),
    'palette of words': changed(palette=[['a', 'b', 'c']]),
    'palette of a table': changed(palette={}),
    'steps in a list': changed(steps=[1]),
    'step of a number': changed(steps=dict(a=1)),
    'step not in base64': changed(steps=dict(a=dict(onnx='x', outputs={}))),
    'step not in ONNX': changed(steps=dict(a=dict(onnx=base64.b64encode(b'no graph').decode(), outputs={}))),
}


@pytest.mark.parametrize('name', [*ALL, *OF_THE_RUNNER])
def test_one_line(name: str, tmp_path: Path) -> None:
    path = tmp_path / 'x.onnx'
    onnx.save(model((ALL | OF_THE_RUNNER)[name]), path)
    opened = [tool('run_exported').open_model] + [open_session] * (name in ALL)
    for function in opened:
        with pytest.raises(ValueError, match=r'x\.onnx [^\n]*export it again$') as raised:
            function(path)
        assert len(str(raised.value)) < 1000


def test_whole_metadata(tmp_path: Path) -> None:
    path = tmp_path / 'x.onnx'
    onnx.save(model(changed()), path)
    assert tool('run_exported').open_model(path).meta == open_session(path).metadata == META
