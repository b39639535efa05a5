"""tools/run_exported.py: alone with numpy, pillow and the runtime, it predicts what our own pipeline predicts."""

import json
import os
import subprocess
import sys
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
import torch
from export_runs import ROOT, SIZE, image_file, model, predicted, tool
from PIL import Image
from torch.nn import functional as F

from eomt_mm.apis.exporting import metadata_of, network_of
from eomt_mm.apis.input_files import VIDEO_SUFFIXES
from eomt_mm.apis.inputs import EXACT
from eomt_mm.core.geometry import Windows
from eomt_mm.datasets.loading import LoadImage
from eomt_mm.datasets.transforms import ResizeToInput
from eomt_mm.export.formats import FORMATS
from eomt_mm.export.metadata import FORMAT, KEY
from eomt_mm.export.onnx import step_graphs
from eomt_mm.export.program import export_program
from eomt_mm.fileio.image_headers import PILLOW_FORMATS
from eomt_mm.fileio.images import IMAGE_SUFFIXES, MAX_PIXELS, VARIABLE

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
    """Files of tiny models, made once; their steps, which take most of the time, are the same in all formats."""
    folder = tmp_path_factory.mktemp('exported')

    @cache
    def traced(task: str, family: int, with_postprocess: bool) -> Any:
        network = network_of(model(task, family), with_postprocess=with_postprocess)
        program = export_program(network)
        return program, network, step_graphs(program, network)

    @cache
    def make(task: str, family: int, format: str = 'onnx', with_postprocess: bool = False) -> Path:
        path = folder / f'{task}{family}{with_postprocess}{FORMATS[format].suffix}'
        program, network, steps = traced(task, family, with_postprocess)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(f'eomt_mm.export.{format}.step_graphs', lambda *_: steps)
            FORMATS[format].save(program, network, path, metadata_of(model(task, family), network, None, False))
        return path

    return make


def found_by_runner(path: Path, image: Path) -> tuple[list[Any], dict[str, Any]]:
    runner = tool('run_exported')
    opened = runner.open_model(path)
    return runner.segment(opened, runner.read_image(image)), opened.meta


@pytest.mark.slow
@pytest.mark.parametrize('format', ['onnx', 'openvino'])
@pytest.mark.parametrize('family', [2, 3])
@pytest.mark.parametrize('size', IMAGES)
def test_semantic(family: int, size: tuple[int, int], format: str, exported: Any, tmp_path: Path) -> None:
    """The first image takes several windows."""
    image = image_file(tmp_path, size)
    segments, _ = found_by_runner(exported('semantic', family, format), image)
    labels = np.full(size, -1)
    for segment in segments:
        labels[segment.mask] = segment.label
    expected = predicted(model('semantic', family), image).pred_sem_seg.data[0].numpy()
    assert (labels == expected).mean() > 0.999 and len(segments) > 3


@pytest.mark.slow
@pytest.mark.parametrize('format', ['onnx', 'openvino'])
@pytest.mark.parametrize('family', [3, 2])
@pytest.mark.parametrize('size', IMAGES)
def test_instance(family: int, size: tuple[int, int], format: str, exported: Any, tmp_path: Path) -> None:
    image = image_file(tmp_path, size)
    segments, meta = found_by_runner(exported('instance', family, format), image)
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
@pytest.mark.parametrize('format', ['onnx', 'openvino'])
def test_panoptic(family: int, size: tuple[int, int], format: str, exported: Any, tmp_path: Path) -> None:
    image = image_file(tmp_path, size)
    segments, meta = found_by_runner(exported('panoptic', family, format), image)
    sample = predicted(model('panoptic', family), image)
    codes = np.full(size, len(meta['classes']))
    for i, segment in enumerate(segments):
        codes[segment.mask] = segment.label + 1000 * (i + 1)
    assert (codes == sample.pred_panoptic_seg.sem_seg[0].numpy()).mean() > 0.999 and segments


@pytest.mark.slow
@pytest.mark.parametrize('format', ['onnx', 'openvino'])
@pytest.mark.parametrize('task', ['panoptic', 'instance', 'semantic'])
def test_results_in_the_graph_are_the_same_for_an_image_of_the_inputs_size(
    task: str, format: str, exported: Any, tmp_path: Path
) -> None:
    image = image_file(tmp_path, (64, 64))
    (outside, _), (inside, _) = (found_by_runner(exported(task, 2, format, where), image) for where in (False, True))
    assert [s.label for s in inside] == [s.label for s in outside]
    for a, b in zip(inside, outside, strict=True):
        assert (a.mask == b.mask).mean() > 0.999 and a.score == (b.score and pytest.approx(b.score, rel=1e-3))


@pytest.mark.parametrize('format', ['onnx', pytest.param('openvino', marks=pytest.mark.slow)])
def test_alone_it_writes_picture_and_json(format: str, exported: Any, tmp_path: Path) -> None:
    path, image, out = exported('panoptic', 2, format), image_file(tmp_path, (50, 80)), tmp_path / 'out' / '50x80-0.png'
    words = [sys.executable, '-c', BLOCKED, str(ROOT / 'tools/run_exported.py'), str(path), str(image)]
    (home := tmp_path / 'home').mkdir()
    env = os.environ | {'HOME': str(home)}
    done = subprocess.run([*words, '--out-dir', str(out.parent)], capture_output=True, text=True, timeout=100, env=env)
    assert done.returncode == 0, done.stderr
    assert not list(home.iterdir())  # the runtimes keep no id of the machine, with which they report their use
    assert sorted(p.name for p in out.parent.iterdir()) == ['50x80-0.json', '50x80-0.png']
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
    runner, meta = tool('run_exported'), dict(classes=['thing'])
    for value, counts in ((False, [6]), (True, [0, 6])):
        entry = runner.described(runner.Segment.of(0, 1.0, np.full((2, 3), value)), meta)
        assert entry['segmentation'] == dict(size=[2, 3], counts=counts) and entry['area'] == 6 * value


@pytest.mark.parametrize('size', [(7, 5), (20, 31), (3, 3), (9, 1)])
def test_resizing_is_that_of_pytorch(size: tuple[int, int]) -> None:
    maps = np.random.default_rng(0).normal(size=(2, 9, 6)).astype(np.float32)
    expected = F.interpolate(torch.from_numpy(maps)[None], size, mode='bilinear', align_corners=False)[0]
    rows, columns = (tool('run_exported').bilinear(*sides) for sides in zip((9, 6), size, strict=True))
    np.testing.assert_allclose(rows @ maps @ columns.T, expected.numpy(), atol=1e-5)


@pytest.mark.parametrize('size', [(64, 64), (64, 65), (64, 200), (500, 64), (64, 1000), (65, 130)])
def test_windows_are_those_of_the_package(size: tuple[int, int]) -> None:
    assert tool('run_exported').corners(size, (64, 64)) == Windows(size, size, (64, 64)).corners


@pytest.mark.parametrize('task', ['panoptic', 'semantic'])
def test_inputs_are_those_of_the_package(task: str, tmp_path: Path) -> None:
    """Pixel by pixel, for images of any shape: as the file is read, resized, padded or cut."""
    built, rng = model(task, 2), np.random.default_rng(0)
    preprocessor, runner = built.data_preprocessor, tool('run_exported')
    meta = dict(input=dict(size=[SIZE, SIZE]), geometry='windows' if task == 'semantic' else 'padding')
    resize = ResizeToInput(SIZE, 'cover' if task == 'semantic' else 'inside')
    for h, w in (*rng.integers(1, 300, (12, 2)), (64, 64), (3, 60), (1, 1), (1, 20)):
        if max(h, w) > 20 * min(h, w):
            continue
        path = image_file(tmp_path, (int(h), int(w)))
        image = resize(LoadImage()(dict(img_path=str(path))))['img']
        sample = preprocessor.sample_class(metainfo=dict(ori_shape=(h, w)))
        tensor = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
        data = preprocessor(dict(inputs=[tensor], data_samples=[sample]))['inputs']
        expected = (data * preprocessor.std + preprocessor.mean).round().byte().numpy()
        found = [pixels for _, _, pixels in runner.windows(runner.read_image(path), meta)]
        assert (np.concatenate(found) == expected).all(), (h, w)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Calls the tool with words."""

    def call(*words: Any) -> None:
        monkeypatch.setattr('sys.argv', ['run_exported.py', *map(str, words)])
        tool('run_exported').main()

    return call


def test_folders_and_videos(exported: Any, tmp_path: Path, run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """Each file has results of its own; one that cannot be read does not end the call, and is counted."""
    folder = tmp_path / 'in'
    (folder / 'sub').mkdir(parents=True)
    for name in ('a.png', 'a.bmp', 'sub/a.png'):
        image_file(tmp_path, (20, 30)).rename(tmp_path / 'one.png')
        Image.open(tmp_path / 'one.png').save(folder / name)
    (folder / 'b.jpg').write_text('no image')
    (folder / 'c.txt').write_text('no image')
    (folder / 'broken.mp4').write_text('no video')
    film = cv2.VideoWriter(str(folder / 'film.mp4'), cv2.VideoWriter.fourcc(*'mp4v'), 5, (32, 24))
    for value in (0, 100):
        film.write(np.full((24, 32, 3), value, np.uint8))
    film.release()
    path, out = exported('panoptic', 2), folder / 'out'
    for _ in range(2):  # its own results are not read
        with pytest.raises(SystemExit, match='^run_exported: 2 of 6 files could not be segmented'):
            run(path, folder, '--out-dir', out, '--threads', 1)
    told = capsys.readouterr()
    assert 'b.jpg cannot be read' in told.err and 'broken.mp4 cannot be read' in told.err
    written = {file.relative_to(out).as_posix() for file in out.rglob('*.*') if file.is_file()}
    names = ('a', 'a.png', 'sub/a', 'film.mp4/000000', 'film.mp4/000001')
    assert written == {f'{name}{suffix}' for name in names for suffix in ('.json', '.png')}
    run(path, folder / 'a.png', folder / 'film.mp4', '--out-dir', tmp_path / 'alone', '--no-pictures')
    assert not list((tmp_path / 'alone').rglob('*.png')) and len(list((tmp_path / 'alone').rglob('*.json'))) == 3


def test_refusals_are_one_line(exported: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Any) -> None:
    runner = tool('run_exported')
    assert (runner.KEY, runner.FORMAT) == (KEY, FORMAT)
    strip = image_file(tmp_path, (20, 90))
    (bad := tmp_path / 'bad.png').write_text('no image')
    (empty := tmp_path / 'empty').mkdir()
    path = exported('panoptic', 2)
    old = tmp_path / 'old.onnx'
    content = onnx.load(path)
    [entry] = content.metadata_props
    entry.value = json.dumps({**json.loads(entry.value), 'format': 1})
    onnx.save(content, old)
    for model_file, image, options, message in (
        (path, tmp_path / 'no.png', (), 'no.png does not exist'),
        (path, empty, (), 'empty has no image or video'),
        (tmp_path / 'no.onnx', strip, (), 'does not exist'),
        (tmp_path / 'no.pt2', strip, (), r'no.pt2: .onnx and .xml files'),
        (bad.rename(tmp_path / 'bad.onnx'), strip, (), 'bad.onnx'),
        (old, strip, (), 'format 1, read is 2: export it again'),
        (path, strip, ('--precision', 'bf16'), '--precision bf16 is for OpenVINO'),
    ):
        with pytest.raises(SystemExit, match=f'^run_exported: .*{message}'):
            run(model_file, image, '--out-dir', tmp_path / 'out', *options)
    assert not (tmp_path / 'out').exists()


def test_images_that_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runner, strip = tool('run_exported'), image_file(tmp_path, (20, 90))
    (cut := tmp_path / 'cut.png').write_bytes(strip.read_bytes()[:-1000])
    with pytest.raises(ValueError, match='cut.png cannot be read .*truncated'):
        runner.read_image(cut)
    meta = dict(
        task='semantic', geometry='windows', input=dict(size=[64, 64]), classes=['a'], postprocess_in_graph=True
    )
    semantic = runner.Model(meta, lambda images: {}, {})
    with pytest.raises(ValueError, match='takes several windows, .* export it without --with-postprocess'):
        runner.segment(semantic, runner.read_image(strip))
    with pytest.raises(ValueError, match='61 x 3 pixels, more than 20 to 1'):
        runner.segment(semantic, Image.new('RGB', (61, 3)))
    monkeypatch.setenv('EOMT_MM_MAX_PIXELS', '1799')
    with pytest.raises(ValueError, match='90 x 20 pixels; the limit is 1799, EOMT_MM_MAX_PIXELS raises it'):
        runner.read_image(strip)


def test_runtimes_that_compute_wrong_segments_are_refused() -> None:
    with pytest.raises(ValueError, match=r'openvino 2025\.4\.1-x is too old: pip install -U openvino'):
        tool('run_exported').openvino_reader(SimpleNamespace(__version__='2025.4.1-x'), 'f32', 0)


@pytest.mark.parametrize(('able', 'message'), [('FP32', 'computes? with it, only with FP32'), ('BF16', '')])
def test_bf16_where_the_processor_has_none_is_refused(able: str, message: str) -> None:
    """OpenVINO itself would silently compute in float32."""

    class Core:
        def get_property(self, device: str, name: str) -> list[str]:
            return [able]

    runtime = SimpleNamespace(Core=Core, __version__='2026.0')
    read = partial(tool('run_exported').openvino_reader, runtime, 'bf16', 0)
    if message:
        with pytest.raises(ValueError, match=message):
            read()
    else:
        read()


def test_limits_are_those_of_the_package() -> None:
    runner = tool('run_exported')
    assert (runner.IMAGE_SUFFIXES, runner.VIDEO_SUFFIXES) == (IMAGE_SUFFIXES, VIDEO_SUFFIXES)
    assert runner.EXACT == EXACT and set(runner.FORMATS) == {'PNG', 'JPEG', 'TIFF', 'WEBP', *PILLOW_FORMATS}
    resize = ResizeToInput(64, 'cover')
    assert (MAX_PIXELS, VARIABLE, resize.max_aspect) == (runner.MAX_PIXELS, runner.VARIABLE, runner.MAX_ASPECT)


@pytest.mark.parametrize('kind', ['grey.png', 'grey.tif', 'grey.pgm', 'colour.png', 'colour.tif'])
def test_deep_images_follow_the_rule_of_the_package(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = tool('run_exported').read_image
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
