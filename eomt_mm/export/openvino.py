"""Export to OpenVINO: a graph (``.xml``) with its weights (``.bin``) beside it, checked before they get their names."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import openvino
from torch.export import ExportedProgram

from eomt_mm.export.checks import check_results
from eomt_mm.export.metadata import INPUT, KEY, as_text
from eomt_mm.export.network import ExportNetwork
from eomt_mm.export.onnx import step_graphs
from eomt_mm.fileio.writing import written_aside


def save_openvino(
    program: ExportedProgram,
    network: ExportNetwork,
    path: str | Path,
    metadata: dict[str, Any],
    calibration: Iterable[np.ndarray] | None = None,
) -> dict[str, float]:
    """Write an OpenVINO model if it gives the same results as PyTorch.

    Args, returns and errors are those of :func:`~eomt_mm.export.onnx.save_onnx`; ``path`` ends in .xml. The steps of
    the post-processing stay ONNX graphs, which OpenVINO reads.
    """
    metadata = dict(metadata, steps=step_graphs(program, network))
    with written_aside(path) as aside:
        model = openvino.convert_model(program)
        model.inputs[0].tensor.set_names({INPUT})
        for output, name in zip(model.outputs, network.postprocess.outputs, strict=True):
            output.tensor.set_names({name})
        if calibration is not None:
            from eomt_mm.export.quantise import quantise  # nncf, which other files do without

            model = quantise(model, calibration)
        model.set_rt_info(as_text(metadata), [KEY])
        openvino.save_model(model, aside, compress_to_fp16=False)
        found = check_results(network, aside, metadata['dynamic_batch'], calibration)
        Path(path).unlink(missing_ok=True)  # an old graph never lies beside new weights
        os.replace(aside.with_suffix('.bin'), Path(path).with_suffix('.bin'))
    return found
