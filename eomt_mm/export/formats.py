"""Formats of exported files, in one table. Importing it imports neither PyTorch nor a runtime."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from pkgutil import resolve_name
from typing import Any


@dataclass(frozen=True)
class Format:
    """A format of exported files.

    Attributes:
        name: as in ``tools/export.py --format``.
        suffix: of its files.
        writer: 'module:function' of this package, with the signature of :func:`~eomt_mm.export.onnx.save_onnx`, where
            ``calibration`` is missing unless '--quantize' is in ``options``. Only that module imports ``packages``.
        weights: name of the file of weights beside it, if there is one; {name} and {stem} are those of the file.
        packages: that the format needs, by import name.
        extra: of eomt_mm, which installs them.
        options: of ``tools/export.py`` that do not apply to every format, and apply to this one.
    """

    name: str
    suffix: str
    writer: str
    weights: str = ''
    packages: tuple[str, ...] = ()
    extra: str = ''
    options: frozenset[str] = frozenset()

    def files(self, path: Path) -> list[Path]:
        """The files that are written for ``path``."""
        return [path, *([path.with_name(self.weights.format(name=path.name, stem=path.stem))] if self.weights else [])]

    def check(self, options: Collection[str] = ()) -> None:
        """Check that options apply and that packages are installed, without importing them.

        Raises:
            ValueError: an option does not apply.
            ImportError: a package is missing.
        """
        for option in sorted(set(options) - self.options):
            able = ', '.join(name for name, other in FORMATS.items() if option in other.options)
            raise ValueError(f'{option} does not apply to --format {self.name}, but to {able}: leave it out')
        needed = {f'--format {self.name}': (self.packages, self.extra)}
        needed |= {option: OPTIONS[option] for option in options if option in OPTIONS}
        for wanted, (packages, extra) in needed.items():
            missing = [name for name in packages if find_spec(name) is None]
            if missing:
                raise ImportError(
                    f"{wanted} needs {', '.join(missing)}, of the extra [{extra}]: pip install 'eomt_mm[{extra}]'"
                )

    @property
    def save(self) -> Callable[..., dict[str, float]]:
        """The function that writes a file; looking it up imports its module."""
        save: Any = resolve_name(f'eomt_mm.export.{self.writer}')
        return save


OPTIONS = {'--quantize': (('nncf',), 'openvino')}  # packages that an option needs in every format, and their extra
ONNX = ('onnx', 'onnxscript', 'onnxruntime')
OPENVINO = (*ONNX, 'openvino')
FORMATS = {
    one.name: one
    for one in (
        Format('onnx', '.onnx', 'onnx:save_onnx', '{name}.data', ONNX, 'export', frozenset(OPTIONS)),
        Format('openvino', '.xml', 'openvino:save_openvino', '{stem}.bin', OPENVINO, 'openvino', frozenset(OPTIONS)),
        Format('torch-export', '.pt2', 'program:save_program'),
    )
}
