"""tools/run_onnx.py: alone with numpy, onnxruntime and pillow, it predicts what our own pipeline predicts."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
import torch
from export_runs import ROOT, image_file, model, predicted, tool
from PIL import Image
from torch.nn import functional as F

from eomt_mm.apis.exporting import metadata_of, network_of
from eomt_mm.core.geometry import Windows
from eomt_mm.datasets.loading import LoadImage
from eomt_mm.datasets.transforms import ResizeToInput
from eomt_mm.export.metadata import FORMAT, KEY
from eomt_mm.export.onnx import save_onnx
from eomt_mm.export.program import export_program
from eomt_mm.fileio.images import MAX_PIXELS, VARIABLE

BLOCKED = """
import runpy, sys
from importlib.abc import MetaPathFinder

class Blocked(MetaPathFinder):
    def find_spec(self, fullname, path=None, target=None):
        if fullname.partition('.')[0] in ('torch', 'eomt_mm', 'mmengine', 'mmcv', 'mmdet', 'mmseg', 'cv2', 'onnx'):
            raise ImportError(f'{fullname} is blocked')

sys.meta_path.insert(0, Blocked())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name='__main__')
"""
IMAGES = [(300, 40), *(pytest.param(size, marks=pytest.mark.slow) for size in ((50, 80), (64, 64)))]


@pytest.fixture(scope='module')
def exported(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Files of tiny models, made once."""
    folder = tmp_path_factory.mktemp('onnx')

    def make(task: str, family: int, with_postprocess: bool = False) -> Path:
        path = folder / f'{task}{family}{with_postprocess}.onnx'
        if not path.exists():
            built = model(task, family)
            network = network_of(built, with_postprocess=with_postprocess)
            save_onnx(export_program(network), network, path, metadata_of(built, network, None, False))
        return path

    return make


def found_by_runner(path: Path, image: Path) -> tuple[list[Any], dict[str, Any]]:
    runner = tool('run_onnx')
    session, meta = runner.open_model(path)
    return runner.segment(session, meta, Image.open(image)), meta


@pytest.mark.slow
@pytest.mark.parametrize('family', [2, 3])
@pytest.mark.parametrize('size', IMAGES)
def test_semantic(family: int, size: tuple[int, int], exported: Any, tmp_path: Path) -> None:
    """The second image takes several windows."""
    image = image_file(tmp_path, size)
    segments, _ = found_by_runner(exported('semantic', family), image)
    labels = np.full(size, -1)
    for segment in segments:
        labels[segment.mask] = segment.label
    expected = predicted(model('semantic', family), image).pred_sem_seg.data[0].numpy()
    assert (labels == expected).mean() > 0.999 and len(segments) > 3


@pytest.mark.slow
@pytest.mark.parametrize('family', [3, 2])
@pytest.mark.parametrize('size', IMAGES)
def test_instance(family: int, size: tuple[int, int], exported: Any, tmp_path: Path) -> None:
    image = image_file(tmp_path, size)
    segments, meta = found_by_runner(exported('instance', family), image)
    expected = predicted(model('instance', family), image).pred_instances
    order = expected.scores.sort(descending=True, stable=True).indices
    assert len(segments) == len(order) == meta['max_per_image']
    np.testing.assert_allclose([s.score for s in segments], expected.scores[order].numpy(), rtol=1e-3, atol=1e-6)
    theirs = {(int(label), round(float(score), 4)): mask for label, score, mask in zip(
        expected.labels, expected.scores, expected.masks.numpy(), strict=True)}  # fmt: skip
    best = [segment for segment in segments if segment.score > 0.05]
    assert len(best) > 3
    for segment in best:
        key = min(theirs, key=lambda k: (k[0] != segment.label, abs(k[1] - segment.score)))
        assert key[0] == segment.label and (segment.mask == theirs[key]).mean() > 0.999


@pytest.mark.parametrize('family', [2, pytest.param(3, marks=pytest.mark.slow)])
@pytest.mark.parametrize('size', IMAGES)
def test_panoptic(family: int, size: tuple[int, int], exported: Any, tmp_path: Path) -> None:
    image = image_file(tmp_path, size)
    segments, meta = found_by_runner(exported('panoptic', family), image)
    sample = predicted(model('panoptic', family), image)
    codes = np.full(size, len(meta['classes']))
    for i, segment in enumerate(segments):
        codes[segment.mask] = segment.label + 1000 * (i + 1)
    assert (codes == sample.pred_panoptic_seg.sem_seg[0].numpy()).mean() > 0.999 and segments


@pytest.mark.slow
@pytest.mark.parametrize('task', ['panoptic', 'instance', 'semantic'])
def test_results_in_the_graph_are_the_same_for_an_image_of_the_inputs_size(
    task: str, exported: Any, tmp_path: Path
) -> None:
    image = image_file(tmp_path, (64, 64))
    (outside, _), (inside, _) = (found_by_runner(exported(task, 2, where), image) for where in (False, True))
    assert [s.label for s in inside] == [s.label for s in outside]
    for a, b in zip(inside, outside, strict=True):
        assert (a.mask == b.mask).mean() > 0.999 and a.score == (b.score and pytest.approx(b.score, rel=1e-3))


def test_alone_it_writes_picture_and_json(exported: Any, tmp_path: Path) -> None:
    path, image, out = exported('panoptic', 2), image_file(tmp_path, (50, 80)), tmp_path / 'out' / 'x.png'
    words = [sys.executable, '-c', BLOCKED, str(ROOT / 'tools/run_onnx.py'), str(path), str(image), '--out', str(out)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert sorted(p.name for p in out.parent.iterdir()) == ['x.json', 'x.png']
    result = json.loads(out.with_suffix('.json').read_text())
    segments, meta = found_by_runner(path, image)
    assert result['task'] == 'panoptic' and len(result['segments']) == len(segments) > 0
    drawn = np.asarray(Image.open(out)).astype(int)
    for entry, segment in zip(result['segments'], segments, strict=True):
        counts = entry['segmentation']['counts']
        values = np.arange(len(counts)) % 2 == 1
        mask = np.repeat(values, counts).reshape(50, 80, order='F')
        assert (mask == segment.mask).all() and entry['area'] == mask.sum()
        assert entry['class_name'] == meta['classes'][entry['label']]
        x, y, w, h = entry['bbox']
        assert mask[y : y + h, x : x + w].sum() == entry['area']
    assert (drawn != np.asarray(Image.open(image))).any()


def test_full_and_empty_masks_have_run_lengths() -> None:
    runner, meta = tool('run_onnx'), dict(classes=['thing'])
    for value, counts in ((False, [6]), (True, [0, 6])):
        entry = runner.described(runner.Segment.of(0, 1.0, np.full((2, 3), value)), meta)
        assert entry['segmentation'] == dict(size=[2, 3], counts=counts) and entry['area'] == 6 * value


@pytest.mark.parametrize('size', [(7, 5), (20, 31), (3, 3), (9, 1)])
def test_resizing_is_that_of_pytorch(size: tuple[int, int]) -> None:
    maps = np.random.default_rng(0).normal(size=(2, 9, 6)).astype(np.float32)
    expected = F.interpolate(torch.from_numpy(maps)[None], size, mode='bilinear', align_corners=False)[0]
    np.testing.assert_allclose(tool('run_onnx').bilinear(maps, size), expected.numpy(), atol=1e-5)


@pytest.mark.parametrize('size', [(64, 64), (64, 65), (64, 200), (500, 64), (64, 1000), (65, 130)])
def test_windows_are_those_of_the_package(size: tuple[int, int]) -> None:
    assert tool('run_onnx').corners(size, (64, 64)) == Windows(size, size, (64, 64)).corners


def test_refusals_are_one_line(exported: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = tool('run_onnx')
    assert (runner.KEY, runner.FORMAT) == (KEY, FORMAT)
    strip, bad = image_file(tmp_path, (20, 90)), tmp_path / 'bad.png'
    bad.write_text('no image')
    cut = tmp_path / 'cut.png'
    cut.write_bytes(strip.read_bytes()[:-1000])
    thin = tmp_path / 'thin.png'
    Image.new('RGB', (61, 3)).save(thin)
    path = exported('semantic', 2)
    with_results = tmp_path / 'with_results.onnx'
    content = onnx.load(path)
    [entry] = content.metadata_props
    entry.value = json.dumps({**json.loads(entry.value), 'postprocess_in_graph': True})
    onnx.save(content, with_results)
    for model_file, image, out, message in (
        (with_results, strip, 'x.png', 'takes 5 windows, .* export it without --with-postprocess'),
        (path, bad, 'x.png', 'bad.png cannot be read .cannot identify image file'),
        (path, cut, 'x.png', 'cut.png cannot be read .*truncated'),
        (path, tmp_path / 'no.png', 'x.png', 'no.png does not exist'),
        (path, thin, 'x.png', '61 x 3 pixels, more than 20 to 1'),
        (path, strip, 'x.jpg', 'name it x.png'),
        (tmp_path / 'no.onnx', strip, 'x.png', 'does not exist'),
        (bad, strip, 'x.png', 'bad.png'),
    ):
        monkeypatch.setattr('sys.argv', ['run_onnx.py', str(model_file), str(image), '--out', str(tmp_path / out)])
        with pytest.raises(SystemExit, match=f'^run_onnx: .*{message}'):
            runner.main()
    monkeypatch.setenv('EOMT_MM_MAX_PIXELS', '1799')
    with pytest.raises(ValueError, match='90 x 20 pixels; the limit is 1799, EOMT_MM_MAX_PIXELS raises it'):
        runner.read_image(strip)
    assert not list(tmp_path.glob('x.*'))


def test_limits_are_those_of_the_package() -> None:
    runner = tool('run_onnx')
    resize = ResizeToInput(64, 'cover')
    assert (MAX_PIXELS, VARIABLE, resize.max_aspect) == (runner.MAX_PIXELS, runner.VARIABLE, runner.MAX_ASPECT)


@pytest.mark.parametrize('kind', ['grey.png', 'grey.tif', 'grey.pgm', 'colour.png', 'colour.tif'])
def test_deep_images_follow_the_rule_of_the_package(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = tool('run_onnx').read_image
    values = np.linspace(0, 4095, 600).astype(np.uint16).reshape(20, 30)
    path = tmp_path / kind
    cv2.imwrite(str(path), values if kind.startswith('grey') else np.stack([values, 15 * values, 3 * values], 2))
    with pytest.raises(ValueError, match=r'cannot be read \(it has more than 8 bits per channel.*EOMT_MM_IMAGE_BITS'):
        read(path)
    for bits in (12, 16):
        monkeypatch.setenv('EOMT_MM_IMAGE_BITS', str(bits))
        try:
            found = np.asarray(read(path))
        except ValueError as error:
            assert 'bits per channel' in str(error)
            assert kind == 'grey.pgm' or (kind.startswith('colour') and (bits == 12 or kind == 'colour.tif'))
        else:
            assert (found[..., ::-1] == LoadImage()({'img_path': str(path)})['img']).all()
