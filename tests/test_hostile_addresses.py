"""A checkpoint at an address runs no code, whichever way mmengine downloads it."""

import os
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.runner import CheckpointLoader

import eomt_mm.registry  # noqa: F401  as configs with the prefix eomt_mm import it


class Hostile:
    """Runs a command where it is unpickled without limits."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f'touch {self.marker}',)


class Handler(SimpleHTTPRequestHandler):
    """Serves a folder; below /moved/ it redirects."""

    def do_GET(self) -> None:
        if self.path.startswith('/moved/'):
            self.send_response(302)
            self.send_header('Location', self.path.removeprefix('/moved'))
            self.end_headers()
        else:
            super().do_GET()

    def log_message(self, *args: Any) -> None:
        """Silent."""


@pytest.fixture
def address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Of a server for ``tmp_path`` on this machine; downloads are cached below it."""
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'cache'))
    server = ThreadingHTTPServer(('127.0.0.1', 0), partial(Handler, directory=str(tmp_path)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f'http://127.0.0.1:{server.server_address[1]}'
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize('legacy', [False, True])
@pytest.mark.parametrize('folder', ['', '/moved'])
def test_hostile_file_runs_nothing(address: str, tmp_path: Path, folder: str, legacy: bool) -> None:
    marker = tmp_path / 'marker'
    content = dict(state_dict=dict(weight=torch.zeros(2)), other=Hostile(marker))
    torch.save(content, tmp_path / 'evil.pth', _use_new_zipfile_serialization=not legacy)
    with pytest.raises(ValueError, match=r'evil\.pth holds more than weights'):
        CheckpointLoader.load_checkpoint(f'{address}{folder}/evil.pth', map_location='cpu')
    assert not marker.exists()


def test_weights_load_from_an_address(address: str, tmp_path: Path) -> None:
    torch.save(dict(state_dict=dict(weight=torch.ones(2))), tmp_path / 'good.pth')
    loaded = CheckpointLoader.load_checkpoint(f'{address}/good.pth', map_location='cpu')
    assert torch.equal(loaded['state_dict']['weight'], torch.ones(2))
