"""tools/analysis/int8_parts.py: the parts of a graph, the error that each one causes, and what is refused."""

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from paths import ROOT

from eomt_mm.export.metadata import FORMAT, INPUT, KEY
from eomt_mm.export.quantise import kept_in_float, operators_of, quantise

SIZE = 8
CHANNELS = 16


@pytest.fixture(scope='module')
def int8_parts() -> Any:
    path = ROOT / 'tools' / 'analysis' / 'int8_parts.py'
    spec: Any = importlib.util.spec_from_file_location('int8_parts', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def graph(outlier: float = 1.0, **metadata: Any) -> Any:
    """A patch embedding, the product of its tokens with themselves, and two layers as torch's exporter names them.

    The patch embedding's weights of red are ``outlier`` times as large: in 8 bits, they leave few steps to the others.
    """
    rng = np.random.default_rng(0)
    weights = dict(
        embed=rng.standard_normal((CHANNELS, 3, 2, 2)) / 255,
        qkv=rng.standard_normal((CHANNELS, CHANNELS)),
        classes=rng.standard_normal((SIZE * SIZE // 4, 5)),
        shape=np.array([1, CHANNELS, -1]),
    )
    weights['embed'][:, 0] *= outlier

    def node(kind: str, inputs: str, output: str, module: str, **attributes: Any) -> Any:
        made = helper.make_node(kind, inputs.split(), [output], f'node_{output}', **attributes)
        scopes = ['', module.rpartition('.')[0], module, 'operation']
        made.metadata_props.add(key='pkg.torch.onnx.name_scopes', value=str(scopes))
        return made

    nodes = [
        node('Cast', INPUT, 'floats', '', to=TensorProto.FLOAT),
        node('Conv', 'floats embed', 'patches', 'backbone.vit.patch_embed.proj', strides=[2, 2]),
        node('Reshape', 'patches shape', 'tokens', 'backbone.vit'),
        node('MatMul', 'qkv tokens', 'mixed', 'backbone.vit.blocks.0.attn.qkv'),
        node('Transpose', 'mixed', 'turned', 'backbone.vit.blocks.0.attn', perm=[0, 2, 1]),
        node('MatMul', 'mixed turned', 'affinity', 'backbone.vit.blocks.0.attn'),
        node('MatMul', 'mixed classes', 'class_logits', 'head.class_predictor'),
        node('MatMul', 'affinity mixed', 'mask_logits', 'head.upscale'),
    ]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ('class_logits', 'mask_logits')]
    tensors = [
        numpy_helper.from_array(value if name == 'shape' else value.astype(np.float32), name)
        for name, value in weights.items()
    ]
    inputs = [helper.make_tensor_value_info(INPUT, TensorProto.UINT8, [1, 3, SIZE, SIZE])]
    model = helper.make_model(
        helper.make_graph(nodes, 'network', inputs, outputs, tensors),
        opset_imports=[helper.make_opsetid('', 20)],
        ir_version=10,
    )
    stated = dict(
        format=FORMAT, task='panoptic', classes=[], input=dict(size=[SIZE, SIZE]), dynamic_batch=False, half=False,
        postprocess_in_graph=False, outputs=dict(class_logits='', mask_logits=''), quantised=None,
    ) | metadata  # fmt: skip
    model.metadata_props.add(key=KEY, value=json.dumps(stated))
    return model


def test_parts_are_modules_and_the_products_of_activations(int8_parts: Any) -> None:
    assert int8_parts.parts_of(graph()) == {
        'patch_embed': ['node_patches'],
        'blocks.0.attn': ['node_mixed'],
        'class_predictor': ['node_class_logits'],
        int8_parts.PRODUCTS: ['node_affinity', 'node_mask_logits'],
    }


def test_patch_embedding_and_products_stay_in_float() -> None:
    operators = list(operators_of(graph()))
    assert kept_in_float(operators) == ['node_patches', 'node_affinity', 'node_mask_logits']


def images_of(seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, (1, 3, SIZE, SIZE), np.uint8) for _ in range(4)]


def test_int8_is_near_the_float_results(int8_parts: Any) -> None:
    model, images = graph(), images_of(0)
    found = int8_parts.outputs_of(quantise(model, images), images)
    assert all(0 < error < 0.1 for error in int8_parts.errors(found, int8_parts.outputs_of(model, images)))


@pytest.mark.slow
def test_the_part_with_an_outlier_is_found(int8_parts: Any) -> None:
    images = images_of(1)
    for image in images:
        image[:, 0] = 0
    found = int8_parts.compare(graph(outlier=200.0), images)
    assert [count for count, _ in found.values()] == [1, 1, 1, 2, 3, 2]
    classes, masks = ({part: values[number] for part, (_, values) in found.items()} for number in range(2))
    assert classes['patch_embed'] > 5 * classes['class_predictor'] > 0
    assert masks['class_predictor'] < 1e-6 and classes[int8_parts.PRODUCTS] < 1e-6
    assert classes['all layers but patch_embed'] < classes['all layers'] / 5


@pytest.mark.parametrize(
    ('name', 'metadata', 'message'),
    [
        ('x.xml', {}, 'give an ONNX file'),
        ('x.onnx', dict(half=True), 'export it in float32'),
        ('x.onnx', dict(quantised='int8'), 'export it in float32'),
        ('x.onnx', dict(postprocess_in_graph=True), 'export it in float32'),
        ('x.onnx', dict(format=0), 'metadata of format 0'),
        ('none.onnx', {}, 'does not exist'),
    ],
)
def test_other_files_are_refused(
    name: str, metadata: dict[str, Any], message: str, tool: Callable[..., None], tmp_path: Path
) -> None:
    onnx.save(graph(**metadata), tmp_path / 'x.onnx')
    with pytest.raises(SystemExit, match=f'^int8_parts: .*{message}'):
        tool('analysis/int8_parts.py', 'eomt_tiny_shapes-panoptic-128', tmp_path / name, tmp_path)
