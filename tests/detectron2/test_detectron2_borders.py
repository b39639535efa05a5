"""eomt_mm.detectron2 runs where no package of OpenMMLab can be imported."""

import importlib
import pkgutil
import sys
from importlib.abc import MetaPathFinder
from pathlib import Path

import numpy as np
import pytest
from copies import in_new_processes
from PIL import Image

MM = ('mmcv', 'mmengine', 'mmdet', 'mmseg')


class NoMM(MetaPathFinder):
    def find_spec(self, fullname: str, path: object = None, target: object = None) -> None:
        if fullname.partition('.')[0] in MM:
            raise ImportError(f'{fullname} is blocked')


def run_without_mm(_: int, root: Path) -> None:
    """Import every module, then read, map and evaluate an image."""
    sys.meta_path.insert(0, NoMM())
    for host in MM:
        with pytest.raises(ImportError, match='is blocked'):
            importlib.import_module(host)
    import eomt_mm.detectron2

    for module in pkgutil.iter_modules(eomt_mm.detectron2.__path__, 'eomt_mm.detectron2.'):
        importlib.import_module(module.name)

    from detectron2.data import DatasetCatalog

    from eomt_mm.detectron2 import data_sets, evaluation, mappers

    prefix = dict(img_path='images', seg_map_path='labels')
    data_sets.register_own_label_maps('test_own', prefix, ('low', 'high'), str(root))
    (item,) = DatasetCatalog.get('test_own')
    assert len(mappers.EoMTMapper('semantic', 32, 2, scale_range=(1, 1))(item)['instances']) == 2
    evaluator = evaluation.build_evaluator('test_own')
    seen = mappers.EoMTMapper('semantic', 32, 2, is_train=False)(item)
    evaluator.process([seen], [dict(sem_seg=seen['image'][:2].float())])
    assert evaluator.evaluate()['sem_seg']['pACC'] == 50
    assert not any(name.partition('.')[0] in MM for name in sys.modules)


@pytest.mark.slow
def test_no_package_of_openmmlab_is_needed(tmp_path: Path) -> None:
    for folder in ('images', 'labels'):
        (tmp_path / folder).mkdir()
    labels = np.repeat(np.array([[0], [1]], np.uint8), 16, 0).repeat(32, 1)
    Image.fromarray(labels).save(tmp_path / 'labels' / 'a.png')
    Image.new('RGB', (32, 32), (9, 5, 1)).save(tmp_path / 'images' / 'a.png')
    in_new_processes(1, run_without_mm, tmp_path)
