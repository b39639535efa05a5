"""tools/web_demo.py: what the page shows of images of every kind, and the page itself in a browser."""

import re
import runpy
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from inferencer_models import saved_model
from PIL import Image
from tool_runs import CONFIGS, ROOT

from eomt_mm.apis import EoMTInferencer
from eomt_mm.synthetic.shapes import SHAPES_METAINFO
from eomt_mm.web import results
from eomt_mm.web.results import find_segments, line, load_models, picture, table, thresholds

Models = dict[str, EoMTInferencer]
NAMES = {task: f'{task}: config' for task in CONFIGS}


@pytest.fixture(scope='module')
def files(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, str]]:
    """Config and checkpoint of a small model of each task."""
    folder, pairs = tmp_path_factory.mktemp('models'), []
    for task in CONFIGS:
        classes = SHAPES_METAINFO['thing_classes' if task == 'instance' else 'classes']
        config, checkpoint = saved_model(task, folder / task, classes=[f'<{name}>' for name in classes])
        pairs.append((str(config), str(checkpoint)))
    return pairs


@pytest.fixture(scope='module')
def models(files: list[tuple[str, str]]) -> Models:
    return load_models(files, 'cpu')


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / 'photo.png')
    return tmp_path / 'photo.png'


def rows(found: results.Found) -> list[list[str]]:
    """Cells of the table's body, as text."""
    return [re.findall('<td>(.*?)</td>', row) for row in re.findall('<tr>(.*?)</tr>', table(found))[1:]]


def test_models_have_names_of_their_own(files: list[tuple[str, str]]) -> None:
    assert list(load_models([files[0], files[0]], 'cpu')) == [NAMES['panoptic'], f'{NAMES["panoptic"]}_2']


@pytest.mark.parametrize('task', CONFIGS)
def test_table_agrees_with_the_inferencer(task: str, models: Models, photo: Path) -> None:
    inferencer = models[NAMES[task]]
    (expected,) = inferencer(str(photo), pred_score_thr=None if task == 'semantic' else 0.2)['predictions']
    info = sorted(expected['segments_info'], key=lambda segment: -segment['area'])
    assert info
    cells = rows(find_segments(inferencer, photo, 0.2))
    assert sorted((int(area), score) for _, _, score, area, _ in cells) == sorted(
        (segment['area'], '&ndash;' if segment['score'] is None else f'{segment["score"]:.2f}') for segment in info
    )
    assert [int(area) for _, _, _, area, _ in cells] == [segment['area'] for segment in info]
    assert {label for _, label, *_ in cells} == {f'&lt;{segment["label"][1:-1]}&gt;' for segment in info}


def test_thresholds_of_the_tasks(models: Models, photo: Path) -> None:
    head = models[NAMES['panoptic']].head
    assert thresholds(models[NAMES['panoptic']]) == (head.score_thr, head.overlap_thr)
    assert thresholds(models[NAMES['instance']]) == (0.3, None)
    assert thresholds(models[NAMES['semantic']]) == (None, None)
    for name, inferencer in models.items():
        everything = len(find_segments(inferencer, photo, 0.0, 0.0).segments)
        nothing = find_segments(inferencer, photo, 1.0, 1.0)
        if name == NAMES['semantic']:  # has no thresholds, whatever hidden sliders say
            assert len(nothing.segments) == everything
        else:
            assert everything > 0 and not nothing.segments
            assert 'thresholds' in table(nothing) and line(nothing).startswith('0 segments')


def test_opacity(models: Models, photo: Path) -> None:
    found = find_segments(models[NAMES['semantic']], photo)
    clear, opaque = (np.asarray(picture(found, opacity)) for opacity in (0.0, 1.0))
    factor = clear.shape[0] // found.image.shape[0]
    same = [(drawn[::factor, ::factor] == found.image).all(-1).mean() for drawn in (clear, opaque)]
    assert same[0] > 0.5 > 0.1 > same[1]  # outlines and names hide some pixels


@pytest.mark.parametrize('mode', ['L', 'RGBA', 'P', 'I;16', '1'])
def test_modes_of_images(mode: str, models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shape = (40, 60, 4) if mode == 'RGBA' else (40, 60)
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    image = Image.fromarray(pixels.astype(np.uint16) * 256) if mode == 'I;16' else Image.fromarray(pixels).convert(mode)
    image.save(tmp_path / 'x.png')
    if mode == 'I;16':
        with pytest.raises(ValueError, match='images have 8 bits'):
            find_segments(models[NAMES['panoptic']], tmp_path / 'x.png', 0.0)
        monkeypatch.setenv('EOMT_MM_IMAGE_BITS', '16')
    found = find_segments(models[NAMES['panoptic']], tmp_path / 'x.png', 0.0)
    assert found.image.shape == (40, 60, 3) and found.segments


def test_exif_turns_the_image(models: Models, photo: Path) -> None:
    image = Image.open(photo)
    exif = image.getexif()
    exif[0x0112] = 6  # orientation: a quarter turn
    image.save(photo.with_suffix('.jpg'), exif=exif)
    found = find_segments(models[NAMES['panoptic']], photo.with_suffix('.jpg'), 0.0)
    assert found.image.shape == (70, 50, 3)
    assert '50 x 70 pixels' in line(found)


def test_large_images_are_shown_smaller(models: Models, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / 'wide.png'), np.full((700, 4000, 3), 90, np.uint8))
    found = find_segments(models[NAMES['semantic']], tmp_path / 'wide.png')
    assert found.image.shape == (700, 4000, 3)
    assert sum(int(area) for *_, area, _ in rows(found)) == 700 * 4000
    # shrunk to 280 x 1600, and then enlarged to be legible, as small images are
    assert max(picture(found, 0.5).size) <= 2 * results.MAX_SIDE


@pytest.mark.parametrize('content', [b'', b'no image', b'\x89PNG\r\n\x1a\n'])
def test_file_that_is_no_image(content: bytes, models: Models, tmp_path: Path) -> None:
    (tmp_path / 'bad.png').write_bytes(content)
    with pytest.raises(ValueError, match='image bad.png .*cannot be decoded') as caught:
        find_segments(models[NAMES['panoptic']], tmp_path / 'bad.png')
    assert str(tmp_path) not in str(caught.value) and '\n' not in str(caught.value)


def test_what_the_page_answers(models: Models, photo: Path, tmp_path: Path) -> None:
    from eomt_mm.web.page import HINT, Page

    page = Page(models, tmp_path)
    assert page.segment(None, NAMES['panoptic'], 0.5, 0.5, 0.5) == (None, None, HINT, '')
    (tmp_path / '<bad>.png').write_text('no image')
    *nothing, message, no_table = page.segment(str(tmp_path / '<bad>.png'), NAMES['panoptic'], 0.5, 0.5, 0.5)
    assert nothing == [None, None] and no_table == ''
    assert 'image &lt;bad&gt;.png cannot be decoded (8 bytes' in message
    found, drawn, status, listed = page.segment(str(photo), NAMES['panoptic'], 0.0, 0.0, 0.0)
    assert found is not None and drawn is not None and 'model and post-processing' in status and '<table>' in listed
    redrawn = page.redrawn(found, 1.0)
    assert redrawn is not None and (np.asarray(redrawn) != np.asarray(drawn)).any()
    assert page.redrawn(None, 1.0) is None
    shown = {name: [slider['visible'] for slider in page.sliders(name)] for name in models}
    assert list(shown.values()) == [[True, True], [True, False], [False, False]]


def test_port_that_is_taken(models: Models) -> None:
    from eomt_mm.web.page import build_page, launch

    page = build_page(models)
    with socket.create_server(('127.0.0.1', 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=f'port {port} is taken.*--port'):
            launch(page, port)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['a.py'], 'a.py is left over'),
        (['a.py', 'b.pth', '--samples', 'nowhere'], "'nowhere' does not exist"),
        (['nowhere.py', 'b.pth'], "config 'nowhere.py' is no file"),
    ],
)
def test_refused_in_one_line(
    arguments: list[str], message: str, tool: Callable[..., None], capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit) as caught:
        tool('web_demo.py', *arguments)
    assert caught.value.code != 0
    assert message in f'{caught.value.code}{capsys.readouterr().err}'


def test_without_gradio(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, 'gradio', None)
    monkeypatch.setattr('importlib.util.find_spec', lambda name: None)
    monkeypatch.setattr(sys, 'argv', ['web_demo.py', 'a.py', 'b.pth'])
    with pytest.raises(SystemExit, match=r"needs gradio.*pip install 'eomt_mm\[web\]'"):
        runpy.run_path(str(ROOT / 'tools' / 'web_demo.py'), run_name='__main__')


@pytest.fixture
def address(files: list[tuple[str, str]], photo: Path, tmp_path: Path) -> Iterator[str]:
    """The tool, serving all models with a folder of samples on a free port."""
    (tmp_path / 'samples').mkdir()
    shutil.copy(photo, tmp_path / 'samples' / 'sample.png')
    words = [word for pair in files for word in pair]
    command = [sys.executable, str(ROOT / 'tools/web_demo.py'), *words, '--device', 'cpu']
    process = subprocess.Popen(
        [*command, '--samples', str(tmp_path / 'samples')], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        assert process.stdout is not None
        lines = iter(process.stdout.readline, '')
        found = next((match for text in lines if (match := re.search(r'http://127\S+', text))), None)
        assert found, 'the tool ended without serving'
        yield found[0]
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.communicate(timeout=30)
        finally:
            process.kill()


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Any]:
    webdriver = pytest.importorskip('selenium.webdriver', reason='no selenium')
    chromium, driver = shutil.which('chromium') or shutil.which('google-chrome'), shutil.which('chromedriver')
    if chromium is None or driver is None:
        pytest.skip('no chromium, or no chromedriver')
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for switch in (
        'headless', 'no-sandbox', 'disable-gpu', 'disable-quic', 'no-first-run', 'disable-background-networking',
        'disable-component-update', 'disable-sync', 'window-size=1280,900', f'user-data-dir={tmp_path / "profile"}',
    ):  # fmt: skip
        options.add_argument(f'--{switch}')
    window = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield window
    window.quit()


@pytest.mark.slow
def test_page_in_a_browser(browser: Any, address: str, photo: Path, tmp_path: Path) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    def wait_for(selector: str) -> Any:
        """The first such element that shows something."""
        return WebDriverWait(browser, 60).until(
            lambda _: next((e for e in browser.find_elements('css selector', selector) if e.is_displayed()), None)
        )

    browser.get(address)
    button = wait_for('#run')
    assert 'Choose an image' in wait_for('#status').text
    browser.find_element('css selector', '#image input[type=file]').send_keys(str(photo))
    wait_for('#image img')
    button.click()
    assert wait_for('#segments tbody td:nth-child(2)').text.strip('<>') in SHAPES_METAINFO['classes']
    overlay = wait_for('#result img')
    WebDriverWait(browser, 30).until(lambda _: overlay.get_property('naturalWidth') == 7 * 70)  # enlarged to be legible
    assert '70 x 50 pixels' in wait_for('#status').text
    assert browser.save_screenshot(str(tmp_path / 'page.png'))
    loaded = browser.execute_script("return performance.getEntriesByType('resource').map(e => e.name)")
    assert loaded and [name for name in loaded if not name.startswith((address, 'data:', 'blob:'))] == []

    bad = tmp_path / 'bad.png'
    bad.write_text('no image')
    browser.find_element('css selector', '#image [aria-label="Remove Image"]').click()
    WebDriverWait(browser, 30).until(lambda _: browser.find_elements('css selector', '#image input[type=file]'))
    browser.find_element('css selector', '#image input[type=file]').send_keys(str(bad))
    wait_for('#image img')
    button.click()
    assert 'image bad.png cannot be decoded (8 bytes' in wait_for('#status .error').text
