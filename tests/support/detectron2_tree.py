"""Whether detectron2 is here: `make detectron2` brings it for tests where its packages can be downloaded."""

import importlib.util

PACKAGES = ('detectron2', 'cloudpickle', 'fvcore', 'hydra', 'iopath', 'omegaconf', 'tabulate', 'yacs')


def missing_packages() -> list[str]:
    """Packages that detectron2 needs and that cannot be imported, itself included; a folder of tests is not it."""
    specs = {name: importlib.util.find_spec(name) for name in PACKAGES}
    return [name for name, spec in specs.items() if spec is None or spec.origin is None]
