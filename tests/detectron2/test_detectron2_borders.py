"""eomt_mm.detectron2 runs where no package of OpenMMLab can be imported, and says in one line that detectron2 lacks."""

import importlib
import pkgutil
import sys
from importlib.abc import MetaPathFinder
from pathlib import Path

import detectron2
import numpy as np
import pytest
import torch
from copies import forget, in_copies
from paths import ROOT
from PIL import Image

TOY = ROOT / 'configs' / 'eomt' / 'toy' / 'eomt_tiny_shapes-panoptic-128.py'
MM = ('mmcv', 'mmengine', 'mmdet', 'mmseg')


class NoMM(MetaPathFinder):
    def find_spec(self, fullname: str, path: object = None, target: object = None) -> None:
        if fullname.partition('.')[0] in MM:
            raise ImportError(f'{fullname} is blocked')


def run_without_mm(_: int, root: Path) -> None:
    """Import every module; read, map and evaluate an image; build a model by a config and predict.

    That is as far as a copy of a process can: gradients are not computed.
    """
    forget(*MM, 'eomt_mm', 'detectron2')
    sys.meta_path.insert(0, NoMM())
    for host in MM:
        with pytest.raises(ImportError, match='is blocked'):
            importlib.import_module(host)
    package = importlib.import_module('eomt_mm.detectron2')
    names = [module.name for module in pkgutil.iter_modules(package.__path__, 'eomt_mm.detectron2.')]
    assert len(names) > 8
    for name in names:
        importlib.import_module(name)

    from detectron2.config import instantiate
    from detectron2.data import DatasetCatalog

    from eomt_mm.detectron2 import EoMTMapper, build_evaluator, lazy_config, register_own_label_maps

    prefix = dict(img_path='images', seg_map_path='labels')
    register_own_label_maps('test_own', prefix, ('low', 'high'), str(root))
    (item,) = DatasetCatalog.get('test_own')
    assert len(EoMTMapper('semantic', 32, 2, scale_range=(1, 1))(item)['instances']) == 2
    evaluator = build_evaluator('test_own')
    seen = EoMTMapper('semantic', 32, 2, is_train=False)(item)
    evaluator.process([seen], [dict(sem_seg=seen['image'][:2].float())])
    assert evaluator.evaluate()['sem_seg']['pACC'] == 50

    cfg = lazy_config(TOY, dict(img_size=64))
    cfg.model.backbone.depth = 3
    with torch.no_grad():
        (result,) = instantiate(cfg.model).eval()([dict(image=torch.zeros(3, 64, 48), height=30, width=20)])
    assert result['panoptic_seg'][0].shape == (30, 20)
    assert not {name for name in sys.modules if name.partition('.')[0] in MM}


@pytest.mark.slow  # tests/test_borders.py reads the imports
def test_the_package_needs_no_mm(tmp_path: Path) -> None:
    for folder in ('images', 'labels'):
        (tmp_path / folder).mkdir()
    labels = np.repeat(np.array([[0], [1]], np.uint8), 16, 0).repeat(32, 1)
    Image.fromarray(labels).save(tmp_path / 'labels' / 'a.png')
    Image.new('RGB', (32, 32), (9, 5, 1)).save(tmp_path / 'images' / 'a.png')
    in_copies(1, run_without_mm, tmp_path)


def test_a_missing_or_old_detectron2_is_one_line() -> None:
    in_copies(1, import_without_detectron2)


def import_without_detectron2(_: int) -> None:
    detectron2.__version__ = '0.5'
    forget('eomt_mm')
    with pytest.raises(ImportError, match='needs detectron2 >= 0.6, 0.5 is there: pip install'):
        importlib.import_module('eomt_mm.detectron2')
    forget('eomt_mm', 'detectron2')
    sys.path[:] = [folder for folder in sys.path if not (Path(folder) / 'detectron2' / '__init__.py').is_file()]
    with pytest.raises(ImportError, match='needs detectron2, which is not installed: pip install') as caught:
        importlib.import_module('eomt_mm.detectron2')
    assert '\n' not in str(caught.value)
