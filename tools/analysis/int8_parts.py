"""Find the parts of a network that INT8 harms: quantise one part at a time, and compare with the file in float.

An error is the root of the mean squared difference to the float results, divided by their standard deviation. Parts are
the modules of the network down to attention and MLP of each block, and the products of two activations. The last rows
quantise all layers, and all but the part with the largest error. tools/export.py leaves the patch embedding and the
products in float.

Example:
    python tools/export.py CONFIG CHECKPOINT --out eomt.onnx
    python tools/analysis/int8_parts.py CONFIG eomt.onnx photos/ --samples 32
"""

import argparse
import ast
import re
import sys
from collections.abc import Collection, Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from eomt_mm.options import ToolParser, whole_number

PRODUCTS = 'products of activations'
SCOPES = 'pkg.torch.onnx.name_scopes'  # torch's exporter writes the modules of each node, from the outermost
LAYERS = ('MatMul', 'Gemm', 'Conv', 'ConvTranspose')


def parse_args() -> argparse.Namespace:
    parser = ToolParser(__doc__)
    parser.add_argument('config', help='config that the file was exported with, which states how images are resized')
    parser.add_argument('file', type=Path, help='ONNX file of logits in float32, from tools/export.py')
    parser.add_argument('images', metavar='FOLDER_OR_CONFIG', help='images, or a config (.py) with training images')
    parser.add_argument('--samples', type=whole_number(2), default=32, metavar='N', help='images; default: 32')
    return parser.parse_args()


if __name__ == '__main__':
    args = parse_args()  # before torch is imported, so that -h and errors are fast

from eomt_mm.apis import load_config  # isort: skip
from eomt_mm.apis.calibration import CalibrationImages  # isort: skip
import numpy as np
import onnx
import onnxruntime

from eomt_mm.export.metadata import INPUT
from eomt_mm.export.quantise import operators_of, products_of_activations, quantise
from eomt_mm.export.sessions import open_session


def parts_of(model: Any) -> dict[str, list[str]]:
    """Names of layers by part, in the order of execution; products of activations come last."""
    products = products_of_activations(operators_of(model))
    parts: dict[str, list[str]] = {}
    for node in model.graph.node:
        if node.op_type in LAYERS and node.name not in products:
            parts.setdefault(part_of(node), []).append(node.name)
    return {**parts, PRODUCTS: products}


def part_of(node: Any) -> str:
    """Name the part of the network that an ONNX node belongs to, such as blocks.3.mlp."""
    scopes = next((entry.value for entry in node.metadata_props if entry.key == SCOPES), '[]')
    modules = [name for name in ast.literal_eval(scopes)[:-1] if name]  # the last one is the operation
    path = modules[-1] if modules else 'others'
    found = re.search(r'blocks\.\d+\.\w+|patch_embed|(?<=head\.)\w+', path)
    return found[0] if found else path


def outputs_of(model: Any, images: Iterable[np.ndarray]) -> list[np.ndarray]:
    """Results of a model for all images, stacked, float32 each."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=['CPUExecutionProvider'])
    runs = [session.run(None, {INPUT: image}) for image in images]
    return [np.concatenate(values).astype(np.float32) for values in zip(*runs, strict=True)]


def errors(found: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> list[float]:
    """Root of the mean squared difference of each output, relative to the standard deviation of the expected one."""
    pairs = zip(found, expected, strict=True)
    return [float(np.sqrt(np.mean(np.square(one - other))) / other.std()) for one, other in pairs]


def compare(model: Any, images: Iterable[np.ndarray]) -> dict[str, tuple[int, list[float]]]:
    """Quantise each part alone, then all layers, then all but the part with the largest error.

    Args:
        model: ONNX model with outputs of logits.
        images: uint8 (1, 3, H, W) each, read once for each part; quantised on and compared on.

    Returns:
        number of layers and errors of each output, by part.
    """
    names = [node.name for node in model.graph.node]
    expected = outputs_of(model, images)

    def quantised(layers: Collection[str]) -> tuple[int, list[float]]:
        in_float = set(names).difference(layers)
        return len(layers), errors(outputs_of(quantise(model, images, in_float), images), expected)

    parts = parts_of(model)
    found = {part: quantised(layers) for part, layers in parts.items()}
    del parts[PRODUCTS]
    worst = max(parts, key=lambda part: max(found[part][1]))
    found['all layers'] = quantised(list(chain(*parts.values())))
    del parts[worst]
    found[f'all layers but {worst}'] = quantised(list(chain(*parts.values())))
    return found


def main(args: argparse.Namespace) -> None:
    try:
        if args.file.suffix != '.onnx':
            raise ValueError(f'{args.file}: give an ONNX file, whose nodes name the modules that they belong to')
        metadata = open_session(args.file).metadata
        if metadata['postprocess_in_graph'] or metadata['half'] or metadata.get('quantised'):
            raise ValueError(f'{args.file}: export it in float32, without --with-postprocess, --half and --quantize')
        cfg = load_config(args.config, dict(img_size=tuple(metadata['input']['size'])))
        images = list(CalibrationImages(cfg, args.images, args.samples))
        found = compare(onnx.load(args.file), images)
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f'int8_parts: {error}')
    print(f'{len(images)} inputs; errors relative to the standard deviation of the float results')
    print(f'| in INT8 | layers | {" | ".join(metadata["outputs"])} |')
    print('|---|' + '---:|' * (1 + len(metadata['outputs'])))
    for part, (count, values) in found.items():
        print(f'| {part} | {count} | {" | ".join(f"{value:.2%}" for value in values)} |')


if __name__ == '__main__':
    main(args)
