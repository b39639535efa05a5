"""Addresses of checkpoints and their download. This module imports no host."""

import hashlib
import re
import shutil
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Any
from urllib import request
from urllib.parse import unquote, urlsplit

import huggingface_hub
import torch

HUB = re.compile(r'hf://(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?')
HUB_PAGE = re.compile(
    r'https://(?:huggingface\.co|hf\.co)/(?P<repo>[\w.-]+/[\w.-]+)(?:/(?:resolve|blob|tree)/(?P<revision>[\w.-]+)(?:[^\w.\n-].*)?|/?(?:[?#].*)?)'
)
HUB_FILES = ['*.json', '*.safetensors', 'pytorch_model.bin']
TIMEOUT = 60  # seconds without a byte
CHUNK = 1 << 20
MAX_BYTES = 100 * 2**30  # far above any ViT's checkpoint; stops downloads from servers that send without end


def hub_address(source: str) -> str:
    """Convert ``https://huggingface.co/owner/name[/resolve/revision/...]`` to ``hf://owner/name[@revision]``.

    Other addresses are returned unchanged. The conversion uses the hub's own cache: all released files have the same
    name, so a cache by file name would confuse them.
    """
    found = HUB_PAGE.fullmatch(source)
    if not found:
        return source
    revision = found['revision']
    return f'hf://{found["repo"]}' + (f'@{revision}' if revision not in (None, 'main') else '')


def scheme_of(source: str | Path) -> str:
    """Return the scheme of an address: 'http', 'https' or 'hf'; '' for a local path.

    Raises:
        ValueError: the address has any other scheme; the message is one line.
    """
    if str(source).startswith('hf:'):
        return 'hf'
    if isinstance(source, Path) or '://' not in source:
        return ''
    scheme = source.partition('://')[0].lower()
    if scheme not in ('http', 'https'):
        raise ValueError(
            f"checkpoint '{source}': addresses of checkpoints begin with http://, https:// or hf://; download the file "
            f'and give its path'
        )
    return scheme


def download(address: str) -> Path:
    """Download ``hf://owner/name[@revision]`` to the hub's cache if it is not there; return its folder.

    With ``HF_HUB_OFFLINE=1`` (read by huggingface_hub), only the cache is used.

    Raises:
        ValueError: the address has a different form.
        ConnectionError: the download failed; the message is one line with the hub's reason.
    """
    found = HUB.fullmatch(address)
    if not found:
        raise ValueError(f"checkpoint '{address}': an address of the hub has the form hf://owner/name[@revision]")
    try:
        return Path(
            huggingface_hub.snapshot_download(found['repo'], revision=found['revision'], allow_patterns=HUB_FILES)
        )
    except Exception as error:  # exception classes of the hub and of the transport that it uses
        reason = ' '.join(str(error).split()).rstrip('.') or type(error).__name__
        raise ConnectionError(
            f"checkpoint '{address}' could not be downloaded: {reason}. Check the name and the network; gated models "
            f'need `hf auth login`; a folder that was downloaded elsewhere can be given as a path'
        ) from error


def cache_path(address: str) -> Path:
    """Return the cache path of an ``http(s)://`` address: below torch.hub's folder, by a hash of the whole address."""
    base = re.sub(r'[^\w.-]', '_', unquote(urlsplit(address).path).rstrip('/').rpartition('/')[2])[-80:]
    key = hashlib.sha256(address.encode()).hexdigest()[:32]
    return Path(torch.hub.get_dir()) / 'eomt_mm' / f'{key}-{base or "checkpoint"}'


def fetch(address: str, target: Path) -> None:
    """Download an ``http(s)://`` address into a file.

    Raises:
        ConnectionError: the download failed, and ``target`` is incomplete; the message is one line.
    """
    try:
        headers = {'Accept-Encoding': 'identity', 'User-Agent': 'eomt_mm'}
        with _opener().open(request.Request(address, headers=headers), timeout=TIMEOUT) as answer:
            _copy(answer, target)
    except (OSError, HTTPException, ValueError) as error:  # URLError is an OSError
        reason = ' '.join(str(error).split()) or type(error).__name__
        raise ConnectionError(
            f"checkpoint '{address}' could not be downloaded: {reason}. Check the address and the network, or download "
            f'the file yourself and give its path'
        ) from error


def _opener() -> request.OpenerDirector:
    """Build an opener for http and https only, also in redirects: urllib's default opener follows them to ftp."""
    opener = request.OpenerDirector()
    kinds: tuple[type[Any], ...] = (
        request.ProxyHandler, request.UnknownHandler, request.HTTPHandler, request.HTTPSHandler,
        request.HTTPDefaultErrorHandler, request.HTTPRedirectHandler, request.HTTPErrorProcessor,
    )  # fmt: skip
    for kind in kinds:
        opener.add_handler(kind())
    return opener


def _copy(answer: HTTPResponse, target: Path) -> None:
    stated = answer.headers.get('Content-Length')
    size = int(stated) if stated is not None else None
    limit = min(MAX_BYTES, shutil.disk_usage(target.parent).free)
    done = 0
    with target.open('wb') as file:
        while True:
            if max(done, size or 0) > limit:
                raise OSError(f'the file has at least {size or done} bytes, but only {limit} are free or allowed')
            content = answer.read(CHUNK)
            if not content:
                break
            done += len(content)
            file.write(content)
    if size is not None and done != size:
        raise OSError(f'the connection closed after {done} of {size} bytes')
