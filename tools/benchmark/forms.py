"""Forms in which a network runs: PyTorch in bfloat16 or compiled, and exported to ONNX Runtime or OpenVINO."""

import tempfile
import warnings
from argparse import Namespace
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmark.harness import Call
from eomt_mm.apis.inferencer_parts import lacks_bfloat16
from eomt_mm.export import ExportNetwork
from eomt_mm.export.formats import FORMATS, OPTIONS as EXPORT_OPTIONS
from eomt_mm.export.metadata import INPUT

Outputs = tuple[Tensor, ...]
Run = Callable[[Tensor], Outputs]
IMAGES = 8  # of calibration: enough for times


@dataclass(frozen=True)
class Form:
    """A form in which a network runs on the CPU, beside eager PyTorch in float32.

    Attributes:
        precision: 'f32', 'bf16' or 'int8'.
        format: of the exported file, see :mod:`eomt_mm.export.formats`; '': PyTorch.
        compiled: by ``torch.compile``.
    """

    precision: str = 'f32'
    format: str = ''
    compiled: bool = False

    @property
    def packages(self) -> tuple[str, ...]:
        """Packages that the form needs, by import name."""
        runtime = FORMATS[self.format].packages if self.format else ()
        return (*runtime, *(EXPORT_OPTIONS['--quantize'][0] if self.precision == 'int8' else ()))

    @property
    def lacking(self) -> str:
        """Why the form cannot run here, or ''."""
        missing = [name for name in self.packages if find_spec(name) is None]
        if missing:
            return f'{", ".join(missing)} is not installed'
        if self.precision == 'bf16' and lacks_bfloat16():
            return 'this processor has no bfloat16 instructions'
        return ''


EAGER = Form()
FORMS = {
    'bf16': Form(precision='bf16'),
    'compiled': Form(compiled=True),
    'compiled-bf16': Form(precision='bf16', compiled=True),
    'onnxruntime': Form(format='onnx'),
    'onnxruntime-int8': Form('int8', 'onnx'),
    'openvino': Form(format='openvino'),
    'openvino-bf16': Form('bf16', 'openvino'),
    'openvino-int8': Form('int8', 'openvino'),
}
OPTIONS = {
    '--forms': dict(
        nargs='+', choices=['all', *FORMS], default=[], metavar='FORM',
        help=f'further forms of each side: all, or of {", ".join(FORMS)}',
    )
}  # fmt: skip


def chosen(args: Namespace) -> list[str]:
    """Names of the forms that are asked for and can run here."""
    return [name for name in asked(args) if not FORMS[name].lacking]


def left_out(args: Namespace) -> list[str]:
    """A line for each form that is asked for and cannot run here."""
    return [f'left out: {name}, {FORMS[name].lacking}' for name in asked(args) if FORMS[name].lacking]


def asked(args: Namespace) -> Iterable[str]:
    forms = vars(args).get('forms', [])
    return FORMS if 'all' in forms else forms


def is_form(side: str) -> bool:
    """Whether a side is a further form of another, 'SIDE FORM'."""
    return ' ' in side


def add_forms(side: Callable[[str], Any], name: str, make: Callable[[Form, Any], Call], exports: bool = True) -> None:
    """Register a side for each form.

    Args:
        side: :meth:`~benchmark.subject.Subject.side` of the subject.
        name: of the side whose forms they are.
        make: makes the call of a form from the form and the problem, which states ``forms``, the names of those that
            take part, and ``key``, text that is equal for equal problems.
        exports: whether the side has an exporter; otherwise it has the forms of PyTorch.
    """
    made: dict[tuple[str, str], Call] = {}  # an export takes a minute, and sides are made twice: to compare and to time

    def maker(form_name: str, problem: Namespace) -> Call | None:
        if form_name not in problem.forms:
            return None
        key = form_name, problem.key
        if key not in made:
            made[key] = make(FORMS[form_name], problem)
        return made[key]

    for form_name, form in FORMS.items():
        if exports or not form.format:
            side(f'{name} {form_name}')(partial(maker, form_name))


def in_torch(form: Form, network: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a network or let it run in bfloat16, as the form says."""
    if form.compiled:
        network = torch.compile(network)

    def run(*args: Any, **kwargs: Any) -> Any:
        with torch.autocast('cpu', torch.bfloat16, enabled=form.precision == 'bf16'):
            return network(*args, **kwargs)

    return run


class PlainViT(nn.Module):
    """The ViT inside an export network, from uint8 images (N, 3, H, W) to its last tokens."""

    def __init__(self, network: ExportNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Outputs:
        inputs = (images.float() - self.network.mean) / self.network.std
        return (self.network.backbone.vit.forward_features(inputs),)


@torch.no_grad()
def exported(form: Form, network: nn.Module, images: Tensor) -> Run:
    """Export a network and open it in the form's runtime.

    Args:
        form: with a format.
        network: from uint8 images (N, 3, H, W) to a tuple of tensors.
        images: of the calls, whose shape is kept; INT8 is calibrated on them.
    """
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # of torch, about its own internals
        program = torch.export.export(network.eval(), (images,), strict=False)
        return (in_openvino if form.format == 'openvino' else in_onnxruntime)(form, program, images)


def quantised(form: Form, model: Any, images: Tensor) -> Any:
    """The model in INT8, if the form says so."""
    if form.precision != 'int8':
        return model
    from eomt_mm.export.quantise import quantise

    return quantise(model, [images.numpy()] * IMAGES)


def in_openvino(form: Form, program: Any, images: Tensor) -> Run:
    import openvino

    model = openvino.convert_model(program)
    model.inputs[0].tensor.set_names({INPUT})
    model.inputs[0].get_node().set_friendly_name(INPUT)
    settings = dict(
        PERFORMANCE_HINT='LATENCY',
        INFERENCE_PRECISION_HINT='bf16' if form.precision == 'bf16' else 'f32',
        INFERENCE_NUM_THREADS=torch.get_num_threads(),
    )
    compiled = openvino.Core().compile_model(quantised(form, model, images), 'CPU', settings)
    return lambda pixels: tuple(torch.from_numpy(values) for values in compiled({INPUT: pixels.numpy()}).values())


def in_onnxruntime(form: Form, program: Any, images: Tensor) -> Run:
    import onnx
    import onnxruntime

    from eomt_mm.export.onnx import OPSET

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder:  # large weights are a second file
        path = Path(folder) / 'network.onnx'
        converted = torch.onnx.export(
            program, (images,), dynamo=True, opset_version=OPSET, verbose=False, input_names=[INPUT]
        )
        assert converted is not None
        converted.save(path)
        if form.precision == 'int8':
            onnx.save(quantised(form, onnx.load(path), images), path)
        session = onnxruntime.InferenceSession(str(path), options, providers=['CPUExecutionProvider'])
    return lambda pixels: tuple(map(torch.from_numpy, session.run(None, {INPUT: pixels.numpy()})))
