"""Calibration images: those of the inferencer, from a folder or the training data of a config."""

from pathlib import Path

import numpy as np
import pytest
from export_runs import config, image_file, options
from paths import ROOT

from eomt_mm.apis import EoMTInferencer, load_config
from eomt_mm.apis.calibration import CalibrationImages, list_images
from eomt_mm.apis.exported import pixels_of
from eomt_mm.apis.inputs import find_sources, images_of

TOY = ROOT / 'configs' / 'eomt' / 'toy' / 'eomt_tiny_shapes-panoptic-128.py'


@pytest.mark.filterwarnings('ignore:no checkpoint')
@pytest.mark.parametrize('task', ['semantic', 'instance'])
def test_same_inputs_as_the_inferencer(task: str, tmp_path: Path) -> None:
    """Of a wide and a tall image: padded, or cut into windows."""
    for size in ((50, 131), (120, 70)):
        image_file(tmp_path, size)
    cfg = load_config(config(task, 2), options(task))
    images = CalibrationImages(cfg, tmp_path)
    found = list(images)
    inferencer = EoMTInferencer(cfg, show_progress=False)
    preprocessor = inferencer.model.data_preprocessor
    expected = []
    for _, data in inferencer.preprocess(images_of(find_sources(str(tmp_path)))):
        inputs = preprocessor(data, training=False)['inputs']
        expected.append(pixels_of(inputs, preprocessor.mean, preprocessor.std))
    assert len(images) == 2 and len(found) == len(np.concatenate(expected)) == (5 if task == 'semantic' else 2)
    np.testing.assert_array_equal(np.concatenate(found), np.concatenate(expected))
    for first, second in zip(found, images, strict=True):  # nncf reads them several times
        assert first.dtype == np.uint8 and first.shape[0] == 1
        np.testing.assert_array_equal(first, second)


def test_samples_cover_all_images(tmp_path: Path) -> None:
    for k in range(7):
        image_file(tmp_path, (32, 32), seed=k)
    cfg = load_config(config('panoptic', 2), options('panoptic'))
    chosen = [Path(path).stem[-1] for path in CalibrationImages(cfg, tmp_path, samples=3).paths]
    assert chosen == ['0', '3', '6']
    assert len(CalibrationImages(cfg, tmp_path, samples=100)) == 7


def test_training_images_of_a_config(coco_root: Path, tmp_path: Path) -> None:
    path = tmp_path / 'own.py'
    path.write_text(f"_base_ = ['{TOY}']\ndata_root = '{coco_root}'\n")
    found = set(map(Path, list_images(path)))
    assert len(found) == 5 and found < set((coco_root / 'train2017').iterdir())  # one has no target


def test_mistakes_are_named(tmp_path: Path) -> None:
    cfg = load_config(config('panoptic', 2), options('panoptic'))
    with pytest.raises(ValueError, match='samples=0: at least 1'):
        CalibrationImages(cfg, tmp_path, samples=0)
    with pytest.raises(FileNotFoundError, match='holds no images'):
        CalibrationImages(cfg, tmp_path)
    with pytest.raises(FileNotFoundError, match=r'none\.py. is no file'):
        CalibrationImages(cfg, tmp_path / 'none.py')
    with pytest.raises(FileNotFoundError, match='none'):
        CalibrationImages(cfg, tmp_path / 'none')
    (tmp_path / 'test_only.py').write_text("_base_ = []\ndefault_scope = 'mmdet'\n")
    with pytest.raises(ValueError, match=r'test_only\.py has no train_dataloader'):
        CalibrationImages(cfg, tmp_path / 'test_only.py')
