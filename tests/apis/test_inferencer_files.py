"""Files of the inferencer: formats that other programs read, names, videos, and what an interruption leaves."""

import contextlib
import io
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from inferencer_models import saved_model
from input_files import touch_listed
from PIL import Image
from pycocotools import mask as mask_api
from pycocotools.coco import COCO

from eomt_mm.annotations.panoptic_png import read_panoptic_png
from eomt_mm.apis import EoMTInferencer
from eomt_mm.apis.inputs import ImageInput, Video
from eomt_mm.apis.result_files import PictureFiles, PredictionFiles
from eomt_mm.apis.results import prediction_of
from eomt_mm.datasets.coco_panoptic import CocoPanoptic
from eomt_mm.models.predictions import Segment

CLASSES = ('car', 'dog', 'sky')
MAP = np.array([[1, 1, 0], [2, 2, 2]], np.int32)


def segment(id_: int, label_id: int) -> dict:
    rle = mask_api.encode(np.asfortranarray(id_ == MAP).astype(np.uint8))
    mask = dict(size=[2, 3], counts=rle['counts'].decode())
    return dict(
        id=id_,
        label_id=label_id,
        label=CLASSES[label_id],
        score=0.9,
        area=2,
        bbox=[0, 0, 2, 1],
        isthing=True,
        mask=mask,
    )


PREDICTION = dict(segmentation=MAP, segments_info=[segment(1, 0), segment(2, 2)])


def files_in(folder: Path) -> set[str]:
    """All files and folders, hidden ones too."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob('*')}


def load_quietly(results: Path, info: Path) -> COCO:
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(info).loadRes(str(results))


def test_panoptic_files_serve_as_annotations(tmp_path: Path) -> None:
    with PredictionFiles(tmp_path, 'panoptic', CLASSES, 2).opened() as files:
        files.add(ImageInput('000000000139', Path('in/000000000139.jpg')), PREDICTION)
        files.add(ImageInput('sub/b'), dict(segmentation=np.zeros((2, 3), np.int32), segments_info=[]))
    assert np.array_equal(read_panoptic_png(tmp_path / 'panoptic_results' / '000000000139.png'), MAP)
    found = json.loads((tmp_path / 'panoptic_results.json').read_text())
    assert [a['image_id'] for a in found['annotations']] == [139, 'sub/b']
    assert [s['category_id'] for s in found['annotations'][0]['segments_info']] == [1, 3]
    assert [c['isthing'] for c in found['categories']] == [1, 1, 0]
    assert found['images'][0] == dict(id=139, file_name='in/000000000139.jpg', height=2, width=3)
    touch_listed(tmp_path / 'images', found)
    dataset = CocoPanoptic(
        ann_file=str(tmp_path / 'panoptic_results.json'),
        data_prefix=dict(img=str(tmp_path / 'images'), seg=str(tmp_path / 'panoptic_results')),
        metainfo=dict(classes=CLASSES, thing_classes=CLASSES[:2], stuff_classes=CLASSES[2:]),
        pipeline=[],
        test_mode=True,
    )
    assert len(dataset) == 2


def test_300_instances_are_written(tmp_path: Path) -> None:
    ids = np.arange(1, 301).reshape(15, 20)
    found = [Segment(k, 0, 0.5, ids == k) for k in range(1, 301)]
    prediction = prediction_of(found, ids.shape, CLASSES, 3, with_masks=True)
    assert np.array_equal(prediction['segmentation'], ids)
    with PredictionFiles(tmp_path, 'instance', CLASSES, 3).opened() as files:
        files.add(ImageInput('7'), prediction)
    with PredictionFiles(tmp_path / 'panoptic', 'panoptic', CLASSES, 3).opened() as files:
        files.add(ImageInput('7'), prediction)
    coco = load_quietly(tmp_path / 'instance_results.json', tmp_path / 'image_info.json')
    assert len(coco.anns) == 300 and {one['area'] for one in coco.anns.values()} == {1}
    assert np.array_equal(read_panoptic_png(tmp_path / 'panoptic' / 'panoptic_results' / '7.png'), ids)


def test_instance_files_are_read_by_pycocotools(tmp_path: Path) -> None:
    with PredictionFiles(tmp_path, 'instance', CLASSES, 3).opened() as files:
        files.add(ImageInput('7'), PREDICTION)
        files.add(ImageInput('empty'), dict(segmentation=MAP, segments_info=[]))
        files.add(ImageInput('007'), PREDICTION)  # the number 7 is taken
    coco = load_quietly(tmp_path / 'instance_results.json', tmp_path / 'image_info.json')
    assert sorted(map(str, coco.imgs)) == ['007', '7', 'empty']
    assert [(a['image_id'], a['category_id'], a['score']) for a in coco.anns.values()] == [
        (7, 1, 0.9), (7, 3, 0.9), ('007', 1, 0.9), ('007', 3, 0.9),
    ]  # fmt: skip
    assert np.array_equal(coco.annToMask(coco.anns[2]), MAP == 2)


@pytest.mark.parametrize('num_classes, bits', [(256, 8), (300, 16)])
def test_semantic_maps_hold_class_indices(num_classes: int, bits: int, tmp_path: Path) -> None:
    classes = [str(k) for k in range(num_classes)]
    labels = np.array([[0, num_classes - 1]], np.int32)
    with PredictionFiles(tmp_path, 'semantic', classes, 0).opened() as files:
        files.add(ImageInput('sub/a'), dict(segmentation=labels, segments_info=[]))
    path = tmp_path / 'semantic_results' / 'sub' / 'a.png'
    with Image.open(path) as image:
        assert np.array_equal(np.asarray(image), labels)
    assert path.read_bytes()[24] == bits  # of the header; Pillow's mode depends on its version
    info = json.loads((tmp_path / 'image_info.json').read_text())
    assert info['categories'][-1] == dict(id=num_classes - 1, name=str(num_classes - 1))
    assert files_in(tmp_path) == {
        'image_info.json',
        'semantic_results',
        'semantic_results/sub',
        'semantic_results/sub/a.png',
    }


@pytest.mark.parametrize('task', ['panoptic', 'instance', 'semantic'])
def test_interruption_leaves_no_json(task: str, tmp_path: Path) -> None:
    for name in (f'{task}_results.json', 'image_info.json'):
        (tmp_path / name).write_text('of an earlier call')
    with pytest.raises(KeyboardInterrupt), PredictionFiles(tmp_path, task, CLASSES, 2).opened() as files:
        files.add(ImageInput('a'), PREDICTION)
        raise KeyboardInterrupt
    assert not [name for name in files_in(tmp_path) if not name.endswith((f'{task}_results', '.png'))]


def test_no_image_is_an_empty_list(tmp_path: Path) -> None:
    with PredictionFiles(tmp_path, 'instance', CLASSES, 3).opened():
        pass
    assert json.loads((tmp_path / 'instance_results.json').read_text()) == []


def frames(name: str, count: int) -> list[ImageInput]:
    video = Video(name, Path(f'{name}.mp4'), 8.0, count)
    return [ImageInput(f'{name}/{k}', video=video) for k in range(count)]


def test_videos_and_pictures_in_turn(tmp_path: Path) -> None:
    picture = np.full((64, 96, 3), (250, 20, 20), np.uint8)  # red
    with PictureFiles(tmp_path) as files:
        for image in [*frames('a', 3), ImageInput('b'), *frames('c', 2)]:
            files.add(image, picture)
        assert {'a.mp4', 'b.png'} <= files_in(tmp_path)  # complete before the end
    assert files_in(tmp_path) == {'a.mp4', 'b.png', 'c.mp4'}
    assert np.array_equal(np.asarray(Image.open(tmp_path / 'b.png')), picture)
    capture = cv2.VideoCapture(str(tmp_path / 'a.mp4'))
    assert (capture.get(cv2.CAP_PROP_FPS), capture.get(cv2.CAP_PROP_FRAME_COUNT)) == (8, 3)
    assert np.abs(capture.read()[1][32, 48].astype(int) - [20, 20, 250]).max() < 20  # BGR


def test_interrupted_video_is_gone(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), PictureFiles(tmp_path) as files:
        for image in [*frames('a', 2), *frames('b', 2)]:
            files.add(image, np.zeros((64, 96, 3), np.uint8))
        raise KeyboardInterrupt
    assert files_in(tmp_path) == {'a.mp4'}


def test_video_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(OSError, match='a.mp4 cannot be written with the codec'), PictureFiles(tmp_path) as files:
        files.add(frames('a', 1)[0], np.zeros((0, 0, 3), np.uint8))
    assert files_in(tmp_path) == set()


@pytest.fixture(scope='module')
def inferencer(tmp_path_factory: pytest.TempPathFactory) -> EoMTInferencer:
    model = saved_model('panoptic', tmp_path_factory.mktemp('model'))
    return EoMTInferencer(*model, device='cpu', show_progress=False)


def test_whole_call_on_folder_and_array(inferencer: EoMTInferencer, tmp_path: Path) -> None:
    photos = tmp_path / 'photos'
    rng = np.random.default_rng(0)
    for name in ('a.jpg', 'sub/a.jpg'):
        (photos / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(photos / name), rng.integers(0, 256, (40, 60, 3), dtype=np.uint8))
    out = photos / 'out'
    results = list(inferencer.stream([photos, np.zeros((30, 30, 3), np.uint8)], out_dir=out, batch_size=2))
    names = {result.name for result in results}
    assert {'a', 'sub/a'} < names and len(names) == 3
    written = files_in(out)
    assert {f'vis/{name}.png' for name in names} | {f'preds/panoptic_results/{name}.png' for name in names} <= written
    stored = read_panoptic_png(out / 'preds' / 'panoptic_results' / 'sub' / 'a.png')
    assert np.array_equal(stored, results[1].prediction['segmentation'])
    inferencer(photos, out_dir=out, no_save_pred=True)  # results of the first call are no images of the second
    assert files_in(out) == written
    inferencer(photos / 'a.jpg', out_dir=tmp_path / 'bare', no_save_vis=True, no_save_pred=True)
    assert not (tmp_path / 'bare').exists()


def test_video_in_a_stream_that_is_left(inferencer: EoMTInferencer, tmp_path: Path) -> None:
    clip = tmp_path / 'clip.mp4'
    writer = cv2.VideoWriter(str(clip), cv2.VideoWriter.fourcc(*'mp4v'), 9, (64, 48))
    for k in range(5):
        writer.write(np.full((48, 64, 3), 50 * k, np.uint8))
    writer.release()
    assert len(list(inferencer.stream(clip, out_dir=tmp_path / 'whole', batch_size=2))) == 5
    capture = cv2.VideoCapture(str(tmp_path / 'whole' / 'vis' / 'clip.mp4'))
    assert (capture.get(cv2.CAP_PROP_FRAME_COUNT), capture.get(cv2.CAP_PROP_FPS)) == (5, 9)
    assert len(json.loads((tmp_path / 'whole/preds/panoptic_results.json').read_text())['annotations']) == 5

    stream = inferencer.stream(clip, out_dir=tmp_path / 'left')
    assert [next(stream).name for _ in range(2)] == ['clip/000000', 'clip/000001']
    stream.close()
    left = files_in(tmp_path / 'left')
    assert 'preds/panoptic_results/clip/000001.png' in left
    assert not [name for name in left if name.endswith(('.mp4', '.json', '.part')) or '/.' in name]
