"""Files that run a command where they are unpickled without limits, and a server for them."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch


class Hostile:
    """Makes a marker file where it is unpickled without limits."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f'touch {self.marker}',)


def write_hostile(path: Path, marker: Path, legacy: bool = False) -> Path:
    """A checkpoint with weights, and beside them what runs the command."""
    content = dict(state_dict=dict(weight=torch.zeros(2)), other=Hostile(marker))
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    return path


class Handler(SimpleHTTPRequestHandler):
    """Serves a folder; /moved/X redirects to /X, /away to a file of this machine, /short/X breaks off half-way."""

    def do_GET(self) -> None:
        if self.path.startswith('/moved/'):
            self._redirect(self.path.removeprefix('/moved'))
        elif self.path.startswith('/away'):
            self._redirect('file:///etc/passwd')
        elif self.path.startswith('/short/'):
            content = Path(str(self.directory), self.path.removeprefix('/short/')).read_bytes()
            self.send_response(200)
            self.send_header('Content-Length', str(len(content)))
            self.end_headers()
            self.wfile.write(content[: len(content) // 2])
        else:
            super().do_GET()

    def _redirect(self, place: str) -> None:
        self.send_response(302)
        self.send_header('Location', place)
        self.end_headers()

    def log_message(self, *args: Any) -> None:
        """Silent."""


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Address of a server of ``folder`` on this machine."""
    server = ThreadingHTTPServer(('127.0.0.1', 0), partial(Handler, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, kwargs=dict(poll_interval=0.02), daemon=True)
    thread.start()
    try:
        yield f'http://127.0.0.1:{server.server_address[1]}'
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
