"""Borders between packages: which may import which, and which run where no host is installed."""

import ast
import importlib
import sys
from collections.abc import Iterator
from functools import cache
from importlib.abc import MetaPathFinder

import pytest
import torch
from copies import in_new_processes
from paths import ROOT

# What the modules of a package may import beside the standard library: packages of eomt_mm, then other libraries.
# The core knows no file and no host; nothing that knows no host knows an adapter.
CORE = {'torch', 'timm', 'numpy', 'scipy'}
PICTURES = {'numpy', 'cv2', 'PIL'}
HOST_FREE: dict[str, tuple[set[str], set[str]]] = {
    'core': (set(), {*CORE, 'PIL', 'torchvision'}),  # augmentation of arrays in memory
    'fileio': (set(), PICTURES),
    'annotations': ({'fileio'}, {*PICTURES, 'msgspec', 'pycocotools'}),
    'synthetic': ({'fileio', 'annotations'}, {*PICTURES, 'pycocotools', 'tqdm'}),
    'visualization': ({'fileio'}, {*PICTURES, 'matplotlib'}),
    'checkpoints': ({'core', 'fileio', 'annotations'}, {*CORE, 'safetensors', 'huggingface_hub', 'filelock'}),
    'recipes': (set(), set()),
    'export': ({'core', 'fileio'}, {*CORE, 'onnx', 'onnxruntime', 'openvino', 'nncf'}),
}
SHARED = {*HOST_FREE, 'hosts', 'options', 'registry', 'compat', '__init__', '__version__'}
ADAPTERS: dict[str, set[str]] = {
    '__init__': {'compat'},
    'compat': set(),
    'options': set(),
    'public': set(),
    'hosts': {'checkpoints', 'fileio', 'datasets', 'recipes'},
    'registry': {'compat', 'hosts'},
    'models': SHARED,
    'datasets': SHARED,
    'engine': {*SHARED, 'models', 'datasets'},
    'evaluation': {*SHARED, 'datasets'},
    'apis': {*SHARED, 'models', 'evaluation'},
    'web': {*SHARED, 'models', 'apis'},
    'detectron2': {*HOST_FREE, 'evaluation'},
}
# The other host's adapters: of what OpenMMLab's adapters share, only the counting of metrics.
MM = {'mmcv', 'mmengine', 'mmdet', 'mmseg'}
COUNTING = ({'annotations', 'fileio'}, {*PICTURES, 'torch', 'pycocotools'})
HOSTS = ('mmcv', 'mmengine', 'mmdet', 'mmseg', 'detectron2')


@cache
def modules() -> dict[str, ast.Module]:
    """Syntax trees of the package's modules by their names."""
    files = [file for file in (ROOT / 'eomt_mm').rglob('*.py') if '.mim' not in file.parts]
    return {
        '.'.join(file.relative_to(ROOT).with_suffix('').parts).removesuffix('.__init__'): ast.parse(file.read_text())
        for file in files
    }


def imported(tree: ast.Module) -> Iterator[str]:
    """Modules that a module imports, inside functions, too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, 'imports are absolute'
            below = node.module == 'eomt_mm'
            yield from (f'eomt_mm.{alias.name}' for alias in node.names) if below else [node.module]


def package_of(module: str) -> str:
    return [*module.split('.'), '__init__'][1]


def is_counting(module: str) -> bool:
    return module.endswith('_counting')


def crosses(module: str, other: str) -> bool:
    """Whether an import crosses a border; every package may state its public names."""
    if other == 'eomt_mm.public':
        return False
    own = package_of(module)
    ours, libraries = COUNTING if is_counting(module) else HOST_FREE.get(own, (ADAPTERS.get(own, set()), None))
    if other.split('.')[0] == 'eomt_mm':
        if is_counting(module) and package_of(other) == 'evaluation':
            return not is_counting(other)
        return package_of(other) not in {own, *ours} or (
            own == 'detectron2' and package_of(other) == 'evaluation' and not is_counting(other)
        )
    if own == 'detectron2':
        return other.split('.')[0] in MM
    return libraries is not None and other.split('.')[0] not in {*sys.stdlib_module_names, *libraries}


def test_no_import_crosses_a_border() -> None:
    found = {
        f'{module} imports {other}'
        for module, tree in modules().items()
        for other in imported(tree)
        if crosses(module, other)
    }
    assert found == set(), '\n'.join(sorted(found))


def test_every_package_has_its_borders() -> None:
    assert {package_of(module) for module in modules()} == {*HOST_FREE, *ADAPTERS}


class NoHosts(MetaPathFinder):
    def find_spec(self, fullname: str, path: object = None, target: object = None) -> None:
        if fullname.partition('.')[0] in HOSTS:
            raise ImportError(f'{fullname} is blocked')


def run_without_hosts(_: int, names: list[str]) -> None:
    """Import modules and run the core where no host can be imported."""
    sys.meta_path.insert(0, NoHosts())
    for host in HOSTS:
        with pytest.raises(ImportError, match='is blocked'):
            importlib.import_module(host)
    for name in names:
        importlib.import_module(name)

    from eomt_mm.core import backbone, criterion, geometry, head, network, postprocess

    torch.set_num_threads(1)
    vit = backbone.PlainViT('vit_small_patch14_reg4_dinov2', 32, depth=2, embed_dim=16, num_heads=2)
    eomt_head = head.EoMTHead(16, 2, 16, num_classes=3, num_queries=4, num_blocks=1)
    images = geometry.Padding((50, 80), (20, 32), (32, 32)).apply(torch.rand(3, 20, 32))
    target = dict(labels=torch.tensor([0, 2]), masks=torch.rand(2, 32, 32) > 0.5)
    losses = criterion.Criterion(3, num_points=32)(*network.eomt_forward(vit, eomt_head.train(), images), [target])
    sum(losses.values()).backward()
    assert len(losses) == 6 and vit.vit.cls_token.grad.isfinite().all()

    class_logits, mask_logits = network.eomt_forward(vit, eomt_head.eval(), images)
    padding = geometry.Padding((50, 80), (20, 32), (32, 32))
    segment_map, _ = postprocess.panoptic_prediction(
        class_logits[0][0], mask_logits[0][0], padding.invert, num_things=2, score_thr=0, overlap_thr=0
    )
    assert segment_map.shape == (50, 80)
    assert not any(name.partition('.')[0] in HOSTS for name in sys.modules)


@pytest.fixture
def host_free() -> list[str]:
    names = sorted(name for name in modules() if package_of(name) in HOST_FREE or is_counting(name))
    assert len(names) > 40
    return names


def test_host_free_packages_import_and_the_core_runs_without_hosts(host_free: list[str]) -> None:
    in_new_processes(1, run_without_hosts, host_free)


def test_the_test_finds_what_crosses() -> None:
    wrong = [
        ('eomt_mm.core.head', 'eomt_mm.models.heads'), ('eomt_mm.core.head', 'mmengine.model'),
        ('eomt_mm.evaluation.pq_counting', 'eomt_mm.evaluation.workers'), ('eomt_mm.fileio.writing', 'mmengine.fileio'),
        ('eomt_mm.models.heads', 'eomt_mm.apis.model'), ('eomt_mm.evaluation.ap_counting', 'mmengine'),
        ('eomt_mm.detectron2.mappers', 'mmengine'), ('eomt_mm.detectron2.evaluation', 'eomt_mm.evaluation.workers'),
    ]  # fmt: skip
    assert all(crosses(*pair) for pair in wrong)
    assert not crosses('eomt_mm.models.heads', 'eomt_mm.core.head') and not crosses('eomt_mm.core.head', 'torch.nn')
