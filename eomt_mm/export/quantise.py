"""INT8 after training, with nncf: linear layers, and convolutions after the patch embedding."""

import logging
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import nncf
import numpy as np
from nncf.quantization.advanced_parameters import OverflowFix

from eomt_mm.export.metadata import INPUT

Model = TypeVar('Model')  # onnx.ModelProto or openvino.Model; only the runtime of the model's format is needed
PRODUCTS = ('MatMul', 'Gemm', 'ScaledDotProductAttention')


class Operator(NamedTuple):
    """An operator of a graph: its name and kind, and the values that it reads and writes."""

    name: str
    kind: str
    inputs: list[str]
    outputs: list[str]


def quantise(model: Model, images: Iterable[np.ndarray], in_float: Collection[str] | None = None) -> Model:
    """Quantise the network of an exported file.

    Args:
        model: graph of a format that :mod:`eomt_mm.export.formats` lists, as ONNX or OpenVINO model; unchanged.
        images: calibration images, uint8 (1, 3, H, W), which are read several times.
        in_float: names of operators that are not quantised; default: those of :func:`kept_in_float`.

    Returns:
        model of the same type.
    """
    nncf.set_log_level(logging.WARNING)
    if in_float is None:
        in_float = kept_in_float(list(operators_of(model)))
    count = sum(1 for _ in images)
    return nncf.quantize(
        model,
        nncf.Dataset(images, lambda image: {INPUT: image}),
        subset_size=count,
        model_type=nncf.ModelType.TRANSFORMER,
        ignored_scope=nncf.IgnoredScope(names=list(in_float)),
        advanced_parameters=nncf.AdvancedQuantizationParameters(overflow_fix=OverflowFix.ENABLE),
    )


def kept_in_float(operators: Sequence[Operator]) -> list[str]:
    """Name the operators that stay in float: patch embedding and products of activations; see docs/deployment.md."""
    patch_embedding = next(one.name for one in operators if one.kind in ('Conv', 'Convolution'))
    return [patch_embedding, *products_of_activations(operators)]


def products_of_activations(operators: Iterable[Operator]) -> list[str]:
    """Name the matrix products whose two sides depend on the image, from operators in the order of execution."""
    from_image, found = {INPUT}, []
    for operator in operators:
        depending = [name for name in operator.inputs if name in from_image]
        if depending:
            from_image.update(operator.outputs)
        if operator.kind in PRODUCTS and len(depending) > 1:
            found.append(operator.name)
    return found


def operators_of(model: Any) -> Iterator[Operator]:
    """List the operators of an ONNX or OpenVINO graph, in the order of execution."""
    if type(model).__module__.partition('.')[0] == 'onnx':
        for node in model.graph.node:
            yield Operator(node.name, node.op_type, list(node.input), list(node.output))
        return
    for node in model.get_ordered_ops():
        name = node.get_friendly_name()
        inputs = [node.input_value(k).get_node().get_friendly_name() for k in range(node.get_input_size())]
        yield Operator(name, node.get_type_name(), inputs, [name])
