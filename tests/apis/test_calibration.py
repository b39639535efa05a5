"""Calibration images: those of the inferencer, from a folder or the training data of a config."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from export_runs import config, image_file, options
from input_files import write_video
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


def test_the_config_itself_keeps_its_overrides(
    coco_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However its path is spelt."""
    (tmp_path / 'own.py').write_text(f"_base_ = ['{TOY}']\n")
    (tmp_path / 'link.py').symlink_to('own.py')
    (tmp_path / 'folder').mkdir()
    monkeypatch.chdir(tmp_path)
    cfg = load_config('own.py', data_root=coco_root)
    for spelt in ('own.py', tmp_path / 'own.py', 'folder/../own.py', 'link.py'):
        assert len(list_images(spelt, cfg)) == 5
    cfg = load_config(TOY.stem, data_root=coco_root)
    assert len(list_images(TOY.name, cfg)) == len(list_images(TOY, cfg)) == 5


def test_training_images_inside_wrappers(coco_root: Path) -> None:
    cfg = load_config(TOY, data_root=coco_root)
    own = cfg.train_dataloader.dataset
    first, rest = ({**own, 'indices': indices} for indices in ([0], [1, 2, 3, 4]))
    repeated = dict(type='RepeatDataset', times=3, dataset=first)
    cfg.train_dataloader.dataset = dict(type='ConcatDataset', datasets=[repeated, rest])
    found = list_images(TOY, cfg)
    cfg.train_dataloader.dataset = own
    assert found == list_images(TOY, cfg) and len(found) == 5
    cfg.test_dataloader.dataset = dict(type='ConcatDataset', datasets=[cfg.test_dataloader.dataset])
    assert len(list(CalibrationImages(cfg, TOY, samples=2))) == 2


def test_data_without_images_and_videos_are_refused(
    coco_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = load_config(TOY, data_root=coco_root)
    cfg.train_dataloader.dataset.indices = []
    with pytest.raises(
        FileNotFoundError, match=r'the training data of config .*128\.py has no images: check its data_root'
    ):
        list_images(TOY, cfg)
    write_video(tmp_path / 'a.mp4')
    for source in (tmp_path / 'a.mp4', tmp_path / '*'):
        with pytest.raises(ValueError, match=r'calibration source .*a\.mp4 is a video: give images'):
            CalibrationImages(cfg, source)
    clips = SimpleNamespace(data_list=[dict(images=[dict(img_path='0.jpg')])])
    monkeypatch.setattr('eomt_mm.apis.calibration.DATASETS', SimpleNamespace(build=lambda _: clips))
    with pytest.raises(ValueError, match=r'128\.py holds videos: give a folder of images'):
        list_images(TOY)


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
