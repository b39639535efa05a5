"""Refuse requests to the page of tools/web_demo.py before gradio sees them: other hosts, origins, addresses, files.

gradio serves far more than one page needs (proxies, streams, component functions, deep links), and opens files that a
request names. Here only the addresses of the page are allowed, and only files of its upload folder.
"""

import os
import stat
from collections.abc import Collection
from pathlib import Path
from typing import Any

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

API = '/gradio_api/'
FILE = f'{API}file='
READ = frozenset(('app_id', 'heartbeat', 'info', 'queue', 'startup-events', 'theme.css', 'upload_progress'))
WRITE = frozenset(('cancel', 'queue', 'reset', 'run', 'upload'))
STATIC = frozenset(('assets', 'config', 'favicon.ico', 'manifest.json', 'robots.txt', 'static', 'svelte', 'theme.css'))
MAX_BODY = 2**20  # bytes, of a request that is no upload
REFUSED = 'This is no image of this page: upload one, or pick a sample.'


def file_within(folder: str | Path, path: str | Path) -> Path:
    """Resolve a path that a request names. Nothing outside the folder is looked at, and nothing is opened.

    Args:
        folder: only files in it or below it are allowed.
        path: as the request names it.

    Returns:
        path without symbolic links.

    Raises:
        ValueError: the path is outside the folder, leads out of it, or is no regular file; one message for all.
    """
    roots = os.path.abspath(folder), os.path.realpath(folder)
    try:
        # The text of the path is checked first: the time of a lookup would reveal whether a path outside exists.
        if any(_is_below(os.path.abspath(path), root) for root in roots):
            real = os.path.realpath(path)
            if _is_below(real, roots[1]) and stat.S_ISREG(os.lstat(real).st_mode):
                return Path(real)
    except (OSError, ValueError):
        pass
    raise ValueError(REFUSED)


def check_payload(value: Any, folder: str | Path) -> None:
    """Check every path in the inputs of a request; gradio would download addresses and hash files.

    Args:
        value: parsed json.
        folder: see :func:`file_within`.

    Raises:
        ValueError: a path is not allowed.
    """
    if isinstance(value, dict):
        if value.get('path') is not None:
            file_within(folder, str(value['path']))
        value = list(value.values())
    if isinstance(value, list):
        for one in value:
            check_payload(one, folder)


class Guard:
    """ASGI middleware that answers all requests but those of the page itself with one line of text.

    Args:
        app: gradio's.
        folder: of the uploads.
        max_upload: bytes of an uploaded file.
        hosts: ``NAME:PORT`` under which browsers reach the page, beside 127.0.0.1 and localhost with its own port.
    """

    def __init__(self, app: ASGIApp, folder: Path, max_upload: int, hosts: Collection[str] = ()) -> None:
        self.app = app
        self.folder = folder
        self.max_upload = max_upload
        self.hosts = frozenset(host.lower() for host in hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope['type'] == 'websocket':  # the page has none
            await send({'type': 'websocket.close', 'code': 1008})
        elif scope['type'] == 'http' and (refusal := self._refusal(scope, Headers(scope=scope))) is not None:
            status, message = refusal
            await PlainTextResponse(message, status)(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    def _refusal(self, scope: Scope, headers: Headers) -> tuple[int, str] | None:
        """Status and message; None for a request of the page."""
        port = scope['server'][1]
        hosts = {f'127.0.0.1:{port}', f'localhost:{port}'} | self.hosts
        if port == 80:
            hosts |= {'127.0.0.1', 'localhost'}
        asked, origins = [host.lower() for host in headers.getlist('host')], headers.getlist('origin')
        if len(asked) != 1 or asked[0] not in hosts:
            return 403, 'This page is not served under this host: see --allow-host of tools/web_demo.py.'
        allowed = {f'http://{host}' for host in hosts} | {f'https://{host}' for host in self.hosts}
        if any(origin.lower() not in allowed for origin in origins):
            return 403, 'This page does not answer to other pages.'
        if not self._is_served(scope['method'], scope['path']):
            return 404, 'Not found.'
        if scope['method'] == 'POST':
            return self._too_large(scope['path'], headers)
        return None

    def _is_served(self, method: str, path: str) -> bool:
        if method == 'POST':
            return path.startswith(API) and path.removeprefix(API).split('/')[0] in WRITE
        if method not in ('GET', 'HEAD'):
            return False
        if path.startswith(FILE):
            try:
                file_within(self.folder, path.removeprefix(FILE))
            except ValueError:
                return False
            return True
        if path.startswith(API):
            return path.removeprefix(API).split('/')[0] in READ
        return path == '/' or path.split('/')[1] in STATIC

    def _too_large(self, path: str, headers: Headers) -> tuple[int, str] | None:
        """Refusal of a body without a stated length or with too large a one; the server enforces the stated length."""
        upload = path.startswith(f'{API}upload')
        limit = self.max_upload + MAX_BODY if upload else MAX_BODY
        length = headers.get('content-length', '')
        if not length.isdecimal() or 'transfer-encoding' in headers:
            return 411, 'The request states no length.'
        if int(length) > limit:
            what = f'images up to {self.max_upload / 2**20:g} MB' if upload else f'up to {MAX_BODY} bytes'
            return 413, f'The request is too large: {what} are allowed.'
        return None


def _is_below(path: str, root: str) -> bool:
    return path.startswith(root.rstrip(os.sep) + os.sep)
