"""What the page of tools/web_demo.py refuses: files outside its folder, foreign hosts and origins, too much work."""

import json
import os
import re
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from inferencer_models import saved_model
from PIL import Image

from eomt_mm.apis import EoMTInferencer
from eomt_mm.web.limits import MAX_SEGMENTED
from eomt_mm.web.results import find_segments, line, load_models, table

FILE = {'meta': {'_type': 'gradio.FileData'}}
NAME = 'panoptic: config'


@pytest.fixture(scope='module')
def model(tmp_path_factory: pytest.TempPathFactory) -> EoMTInferencer:
    config, checkpoint = saved_model('panoptic', tmp_path_factory.mktemp('model'))
    return load_models([(str(config), str(checkpoint))], 'cpu')[NAME]


class Client:
    """Requests to a page, as its browser side makes them."""

    def __init__(self, address: str, folder: Path, outside: Path) -> None:
        self.http = httpx.Client(base_url=address, timeout=30, trust_env=False)
        self.folder = folder
        self.outside = outside
        config = self.http.get('/config').json()
        self.functions = {each['api_name']: each for each in config['dependencies']}

    def ask(self, name: str, data: list[Any], session: str = 's') -> dict[str, Any]:
        """What the queue answers a call in the end."""
        body = dict(data=data, fn_index=self.functions[name]['id'], session_hash=session)
        joined = self.http.post('/gradio_api/queue/join', json=body)
        assert joined.status_code == 200, joined.text
        with self.http.stream('GET', '/gradio_api/queue/data', params=dict(session_hash=session)) as lines:
            for text in lines.iter_lines():
                if text.startswith('data:') and (found := json.loads(text[5:]))['msg'] == 'process_completed':
                    return dict(found)
        raise AssertionError('no answer')

    def segment(self, image: Any) -> dict[str, Any]:
        return self.ask('segment', [image, NAME, 0.0, 0.0, 0.5])

    def upload(self, content: bytes, name: str = 'photo.png') -> Any:
        return self.http.post('/gradio_api/upload', files=dict(files=(name, content)))


@pytest.fixture(scope='module')
def page(model: EoMTInferencer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    from eomt_mm.web.page import build_page, launch

    folder, outside = tmp_path_factory.mktemp('uploads'), tmp_path_factory.mktemp('outside')
    Image.fromarray(pixels(40, 60)).save(outside / 'private.png')
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('GRADIO_TEMP_DIR', str(folder))
        blocks = build_page({NAME: model}, [outside / 'private.png'], max_pixels=10**6, time_limit=20)
        address = launch(blocks, allowed_hosts=['tunnel:8080'], max_upload=2**20)
        yield Client(address, folder, outside)
        blocks.close()


def pixels(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def png(width: int, height: int) -> bytes:
    """A small PNG of one colour with a large size, grey with one bit a pixel."""

    def part(kind: bytes, content: bytes) -> bytes:
        return len(content).to_bytes(4, 'big') + kind + content + zlib.crc32(kind + content).to_bytes(4, 'big')

    header = width.to_bytes(4, 'big') + height.to_bytes(4, 'big') + bytes([1, 0, 0, 0, 0])
    rows = zlib.compress(bytes(height * (1 + (width + 7) // 8)))
    return b'\x89PNG\r\n\x1a\n' + part(b'IHDR', header) + part(b'IDAT', rows) + part(b'IEND', b'')


def refusal(answer: dict[str, Any]) -> str:
    """What a refused call says, without what differs between any two calls."""
    assert 'segments ·' not in json.dumps(answer)
    answer['output'].pop('duration', None)
    return json.dumps(answer['output'])


@pytest.mark.parametrize('meta', [{}, FILE], ids=['no meta', 'meta'])
def test_files_outside_the_folder(page: Client, meta: dict[str, Any]) -> None:
    existing, missing = page.outside / 'private.png', page.outside / 'missing.png'
    (page.folder / f'link{len(meta)}.png').symlink_to(existing)
    (page.folder / f'folder{len(meta)}.png').symlink_to(page.outside)
    fifo = page.folder / f'fifo{len(meta)}'
    os.mkfifo(fifo)
    start = time.monotonic()
    answers = {
        refusal(page.segment(dict(path=str(path), **meta)))
        for path in (
            existing, missing, '/etc/passwd', '/dev/zero', '/dev/stdin', page.outside, page.folder, fifo, '',
            'x\0y', '/' * 5000,
            page.folder / f'link{len(meta)}.png', page.folder / f'folder{len(meta)}.png' / 'private.png',
            page.folder / '..' / page.outside.name / 'private.png', page.folder / 'missing.png', '~/x', 'private.png',
            f'file://{existing}', 'http://127.0.0.1:1/x.png', 'https://example.com/x.png',
        )
    }  # fmt: skip
    assert len(answers) == 1 and 'no image of this page' in answers.pop()
    assert time.monotonic() - start < 10


def test_paths_in_inputs_of_other_kinds(page: Client) -> None:
    """gradio would download an address that is given for a slider."""
    for payload in (dict(path='http://127.0.0.1:1/x', **FILE), [dict(path='/etc/passwd', **FILE)]):
        answer = page.ask('segment', [None, NAME, payload, 0.0, 0.5])
        assert 'no image of this page' in refusal(answer)


def test_data_that_are_no_image(page: Client) -> None:
    for image in (dict(url='data:image/png;base64,AAAA'), dict(url='http://127.0.0.1:1/'), 'a', 3, [], [[1]]):
        answer = page.segment(image)
        assert 'Traceback' not in json.dumps(answer) and 'segments ·' not in json.dumps(answer)


def test_every_way_to_call_a_function(page: Client) -> None:
    data = [dict(path='/etc/passwd', **FILE), NAME, 0.0, 0.0, 0.5]
    body = dict(data=data, fn_index=page.functions['segment']['id'], session_hash='t')
    for address in ('run/segment', 'run/predict', 'api/segment', 'call/segment', 'call/v2/segment'):
        answer = page.http.post(f'/gradio_api/{address}', json=body)
        assert answer.status_code in (404, 500) and 'root:' not in answer.text, address


@pytest.mark.parametrize(
    'address',
    [
        'file=http://127.0.0.1:1/x', 'file=/etc/passwd', 'file=/nowhere', 'file=%2e%2e/x', 'file//etc/passwd',
        'proxy=http://127.0.0.1:1/x', 'deep_link?session_hash=s', 'stream/s/1/1/playlist.m3u8', 'vibe-code',
        'custom_component/a/client/b/c', 'dev/reload', 'runs', 'monitoring', 'token', 'openapi.json',
    ],
)  # fmt: skip
def test_addresses_that_the_page_does_not_need(page: Client, address: str) -> None:
    answer = page.http.get(f'/gradio_api/{address}')
    assert (answer.status_code, answer.text) == (404, 'Not found.')


@pytest.mark.parametrize(
    'address', ['component_server', 'process_recording', 'stream/x', 'vibe-edit', 'run-history/connect']
)
def test_actions_that_the_page_does_not_need(page: Client, address: str) -> None:
    assert page.http.post(f'/gradio_api/{address}', json={}).status_code == 404


@pytest.mark.parametrize(
    'address', ['/', '/config', '/gradio_api/queue/data?session_hash=s', '/gradio_api/heartbeat/x']
)
@pytest.mark.parametrize(
    'host', ['evil.example', 'evil.example:7860', '127.0.0.1', 'localhost:1', '[::1]:7860', '', 'tunnel:1']
)
def test_foreign_hosts(page: Client, host: str, address: str) -> None:
    assert page.http.get(address, headers=dict(host=host)).status_code == 403


@pytest.mark.parametrize(
    'origin', ['http://evil.example', 'null', 'http://127.0.0.1:1', 'http://localhost', 'file://', '']
)
def test_foreign_origins(page: Client, origin: str) -> None:
    for method, address in (('GET', '/config'), ('POST', '/gradio_api/queue/join'), ('POST', '/gradio_api/upload')):
        assert page.http.request(method, address, headers=dict(origin=origin)).status_code == 403


@pytest.mark.parametrize('origin', ['http://evil.example', 'null'])
def test_preflights_of_other_sites(page: Client, origin: str) -> None:
    asks = {'origin': origin, 'access-control-request-method': 'POST'}
    assert 'access-control-allow-origin' not in page.http.options('/gradio_api/queue/join', headers=asks).headers


def test_own_hosts_and_origins(page: Client) -> None:
    port = page.http.base_url.port
    for host in (f'127.0.0.1:{port}', f'localhost:{port}', f'LOCALHOST:{port}', 'tunnel:8080'):
        for headers in (dict(host=host), dict(host=host, origin=f'http://{host}')):
            assert page.http.get('/config', headers=headers).status_code == 200


def test_uploads_that_are_too_large(page: Client) -> None:
    before = sorted(page.folder.rglob('*'))
    slightly, much = page.upload(bytes(2**20 + 1)), page.upload(bytes(4 * 2**20))
    assert (slightly.status_code, much.status_code) == (413, 413) and 'up to 1 MB' in much.text
    unstated = page.http.post('/gradio_api/upload', content=iter([b'x']))
    assert unstated.status_code == 411
    assert page.http.post('/gradio_api/queue/join', content=bytes(2**20 + 1)).status_code == 413
    assert sorted(page.folder.rglob('*')) == before


@pytest.mark.parametrize(
    ('size', 'message'),
    [((8000, 8000), r'8000 x 8000 pixels; the limit is 1 million'), ((3, 2000), 'more than 16 times')],
)
def test_images_that_are_too_large(page: Client, size: tuple[int, int], message: str) -> None:
    (path,) = page.upload(png(*size)).json()
    assert message in json.dumps(page.segment(dict(path=path, **FILE)))


def test_what_a_browser_does(page: Client) -> None:
    (path,) = page.upload((page.outside / 'private.png').read_bytes(), 'mine.png').json()
    url = f'{page.http.base_url}gradio_api/file={path}'
    found = page.segment(
        dict(path=path, url=url, orig_name='mine.png', size=9, mime_type='image/png', is_stream=False, **FILE)
    )
    _, result, status, listed = found['output']['data']
    assert '60 x 40 pixels' in status and '<table>' in listed
    picture = page.http.get(f'/gradio_api/file={result["path"]}')
    assert picture.status_code == 200 and picture.content.startswith(b'\x89PNG')
    again = page.ask('redrawn', [None, 1.0])['output']['data'][0]
    assert again['path'] != result['path']


def test_samples(page: Client) -> None:
    (name,) = (name for name in page.functions if name.startswith('load_example'))
    body = dict(data=[0], fn_index=page.functions[name]['id'], session_hash='u')
    (chosen,) = page.http.post(f'/gradio_api/run/{name}', json=body).json()['data']
    image = chosen.get('value', chosen)
    assert page.http.get(f'/gradio_api/file={image["path"]}').status_code == 200
    assert '60 x 40 pixels' in json.dumps(page.segment(image))


def test_what_the_page_itself_loads(page: Client) -> None:
    start = page.http.get('/').text
    wanted = {found for found in re.findall(r'(?:src|href)="\.?(/[^"]+)"', start) if not found.startswith('//')}
    assert wanted
    for address in (*wanted, '/theme.css', '/gradio_api/info', '/gradio_api/startup-events', '/gradio_api/app_id'):
        assert page.http.get(address).status_code == 200, address


def test_time_limit(model: EoMTInferencer, page: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow model is left at the limit; afterwards the page answers."""
    from eomt_mm.web.page import Page

    Image.fromarray(pixels(40, 60)).save(tmp_path / 'x.png')
    entered: list[float] = []
    block = model.model.backbone

    def slow(*_: Any) -> None:
        entered.append(time.monotonic())
        time.sleep(0.3)

    handles = [module.register_forward_pre_hook(slow) for module in block.modules()]
    try:
        *nothing, message, listed = Page({NAME: model}, tmp_path, time_limit=0.5).segment(
            str(tmp_path / 'x.png'), NAME, 0.0, 0.0, 0.5
        )
    finally:
        for handle in handles:
            handle.remove()
    assert nothing == [None, None] and listed == '' and 'longer than 0.5 seconds' in message
    assert 1 <= len(entered) <= 3
    assert not any(module._forward_pre_hooks for module in model.model.modules())
    (path,) = page.upload((tmp_path / 'x.png').read_bytes()).json()
    assert '60 x 40 pixels' in json.dumps(page.segment(dict(path=path, **FILE)))


def test_large_images_are_segmented_smaller(model: EoMTInferencer, tmp_path: Path) -> None:
    (tmp_path / 'x.png').write_bytes(png(4000, 2000))
    found = find_segments(model, tmp_path / 'x.png', 0.0, 0.0)
    assert found.image.shape[0] * found.image.shape[1] <= MAX_SEGMENTED < 4000 * 2000
    assert '4000 x 2000 pixels, segmented at 2828 x 1414' in line(found) and '<table>' in table(found)
    assert torch.is_grad_enabled()
