"""Export to ONNX with torch's exporter: the file contains the metadata, and is checked before it gets its name."""

import base64
import os
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch.export import Dim, ExportedProgram

from eomt_mm.export.checks import check_results
from eomt_mm.export.metadata import INPUT, KEY, as_text
from eomt_mm.export.network import ExportNetwork
from eomt_mm.export.steps import Step
from eomt_mm.fileio.writing import written_aside

Array = np.ndarray
# Has GELU as one operator; onnxruntime from 1.17 on.
OPSET = 20
MOST_BYTES = 1.5e9  # of weights in the ONNX file itself, which is limited to 2 GB


def save_onnx(
    program: ExportedProgram,
    network: ExportNetwork,
    path: str | Path,
    metadata: dict[str, Any],
    calibration: Iterable[Array] | None = None,
) -> dict[str, float]:
    """Write an ONNX file if onnx' checker accepts it and onnxruntime gives the same results as PyTorch.

    Weights beyond 1.5 GB go to ``<path>.data`` beside it, because an ONNX file is limited to 2 GB; move both together.
    Otherwise an old file of that name is removed.

    Args:
        program: what :func:`~eomt_mm.export.program.export_program` made.
        network: the network that it was made from.
        path: of the file, which is replaced.
        metadata: see :func:`~eomt_mm.apis.exporting.metadata_of`.
        calibration: images to quantise with, see :func:`~eomt_mm.export.quantise.quantise`; None: not quantised.

    Returns:
        see :func:`~eomt_mm.export.checks.check_results`.

    Raises:
        ValueError: see :func:`~eomt_mm.export.checks.check_results`, or the weights are too large to quantise.
    """
    metadata = dict(metadata, opset=OPSET, steps=step_graphs(program, network))
    shapes = ({0: 'batch'},) if metadata['dynamic_batch'] else None
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter('ignore')  # of the exporter, about itself
        converted = torch.onnx.export(
            program, (network.example(1),), dynamo=True, opset_version=OPSET, dynamic_shapes=shapes, verbose=False,
            input_names=[INPUT], output_names=list(network.postprocess.outputs),
        )  # fmt: skip
    assert converted is not None
    converted.model.metadata_props[KEY] = as_text(metadata)
    with written_aside(path) as aside:
        if calibration is None:
            converted.save(aside)
        else:
            onnx.save(quantised(converted, calibration), aside)
        onnx.checker.check_model(aside, full_check=True)
        found = check_results(network, aside, metadata['dynamic_batch'], calibration)
        Path(path).unlink(missing_ok=True)  # first: an old file never lies beside new weights
        data = f'{Path(path).name}.data'
        if (aside.parent / data).exists():
            os.replace(aside.parent / data, Path(path).parent / data)
        else:
            (Path(path).parent / data).unlink(missing_ok=True)
    return found


def quantised(converted: torch.onnx.ONNXProgram, calibration: Iterable[Array]) -> onnx.ModelProto:
    """Quantise a converted program, see :func:`~eomt_mm.export.quantise.quantise`.

    Raises:
        ValueError: the weights exceed the largest ONNX file.
    """
    from eomt_mm.export.quantise import quantise  # nncf, which other files do without

    size = sum(value.const_value.nbytes for value in converted.model.graph.initializers.values() if value.const_value)
    if size > MOST_BYTES:
        raise ValueError(f'weights of {size / 1e9:.1f} GB are too large to quantise as ONNX: take --format openvino')
    return quantise(converted.model_proto, calibration)


def step_graphs(program: ExportedProgram, network: ExportNetwork) -> dict[str, Any]:
    """For the metadata: by name of each of the network's ``steps``, its ONNX graph in base64 and its outputs."""
    if not network.steps:
        return {}
    class_logits, mask_logits = (output.meta['val'].shape for output in program.graph.output_node().args[0])
    sides = dict(Q=class_logits[1], K1=class_logits[2], K=class_logits[2] - 1, h=mask_logits[2], w=mask_logits[3])
    return {
        name: dict(onnx=base64.b64encode(step_graph(step, sides)).decode(), outputs=dict(step.outputs))
        for name, step in network.steps.items()
    }


def step_graph(step: Step, sides: dict[str, int]) -> bytes:
    """Convert a step.

    Args:
        step: to convert.
        sides: lengths of the sides that are the same in every call.
    """
    names = {side for shape in step.inputs.values() for side in shape if isinstance(side, str)} - set(sides)
    dims = {name: Dim(name, min=1, max=2**24) for name in sorted(names)}
    distinct = {name: 5 + 2 * index for index, name in enumerate(dims)}  # torch takes equal lengths for one
    lengths = {**sides, **distinct}
    examples = tuple(
        torch.ones(
            [side if isinstance(side, int) else lengths[side] for side in shape],
            dtype=step.dtypes.get(name, torch.float32),
        )
        for name, shape in step.inputs.items()
    )
    shapes = tuple(
        {index: dims[side] for index, side in enumerate(shape) if side in dims} for shape in step.inputs.values()
    )
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter('ignore')
        traced = torch.export.export(step.eval(), examples, dynamic_shapes=(shapes,), strict=False)
        converted = torch.onnx.export(
            traced, examples, dynamo=True, opset_version=OPSET, verbose=False,
            input_names=list(step.inputs), output_names=list(step.outputs),
        )  # fmt: skip
    assert converted is not None
    proto = converted.model_proto
    for node in proto.graph.node:
        del node.metadata_props[:]  # torch's stack traces, most of the file
    return bytes(proto.SerializeToString())
