"""Addresses of checkpoints: what they may be, and downloads that are whole or not at all. No host."""

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
    r'https://(?:huggingface\.co|hf\.co)/(?P<repo>[\w.-]+/[\w.-]+)(?:/(?:resolve|blob|tree)/(?P<revision>[\w.-]+).*)?/?(?:[?#].*)?'
)
HUB_FILES = ['*.json', '*.safetensors', 'pytorch_model.bin']
TIMEOUT = 60  # seconds without a byte
CHUNK = 1 << 20
MAX_BYTES = 100 * 2**30  # no ViT's checkpoint comes near it; servers that never end do


def hub_address(source: str) -> str:
    """``https://huggingface.co/owner/name[/resolve/revision/...]`` as ``hf://owner/name[@revision]``; others as is.

    All released files have one name, so a cache by file names would mix them up; the hub's own cache does not.
    """
    found = HUB_PAGE.fullmatch(source)
    if not found:
        return source
    revision = found['revision']
    return f'hf://{found["repo"]}' + (f'@{revision}' if revision not in (None, 'main') else '')


def scheme_of(source: str | Path) -> str:
    """'http', 'https' or 'hf' of an address, '' of a local path.

    Raises:
        ValueError: in one line, for any other scheme.
    """
    if str(source).startswith('hf:'):
        return 'hf'
    if isinstance(source, Path) or '://' not in source:
        return ''
    scheme = source.partition('://')[0].lower()
    if scheme not in ('http', 'https'):
        raise ValueError(
            f"checkpoint '{source}': addresses of checkpoints begin with http://, https:// or hf://; download it, and "
            f'give the file'
        )
    return scheme


def download(address: str) -> Path:
    """Folder of ``hf://owner/name[@revision]`` in the hub's cache, filled where needed.

    ``HF_HUB_OFFLINE=1`` (read by huggingface_hub) keeps it to the cache.

    Raises:
        ValueError: for an address of another form.
        ConnectionError: in one line, with the hub's reason.
    """
    found = HUB.fullmatch(address)
    if not found:
        raise ValueError(f"checkpoint '{address}': an address of the hub has the form hf://owner/name[@revision]")
    try:
        return Path(
            huggingface_hub.snapshot_download(found['repo'], revision=found['revision'], allow_patterns=HUB_FILES)
        )
    except Exception as error:  # the hub's own classes and those of whatever transport it uses
        reason = ' '.join(str(error).split()).rstrip('.') or type(error).__name__
        raise ConnectionError(
            f"checkpoint '{address}' could not be downloaded: {reason}. Check the name and the network; gated models "
            f'need `hf auth login`; a folder that was downloaded elsewhere can be given as a path'
        ) from error


def cache_path(address: str) -> Path:
    """Where the file of an ``http(s)://`` address is kept: below torch.hub's folder, by a hash of the whole address."""
    base = re.sub(r'[^\w.-]', '_', unquote(urlsplit(address).path).rstrip('/').rpartition('/')[2])[-80:]
    key = hashlib.sha256(address.encode()).hexdigest()[:32]
    return Path(torch.hub.get_dir()) / 'eomt_mm' / f'{key}-{base or "checkpoint"}'


def fetch(address: str, target: Path) -> None:
    """Downloads an ``http(s)://`` address into a file.

    Raises:
        ConnectionError: in one line; what ``target`` then holds is incomplete.
    """
    try:
        headers = {'Accept-Encoding': 'identity', 'User-Agent': 'eomt_mm'}
        with _opener().open(request.Request(address, headers=headers), timeout=TIMEOUT) as answer:
            _copy(answer, target)
    except (OSError, HTTPException, ValueError) as error:  # URLError is an OSError
        reason = ' '.join(str(error).split()) or type(error).__name__
        raise ConnectionError(
            f"checkpoint '{address}' could not be downloaded: {reason}. Check the address and the network, or download "
            f'it and give the file'
        ) from error


def _opener() -> request.OpenerDirector:
    """Knows http and https alone, for redirects too: urllib's own follows them to ftp."""
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
                raise OSError(f'{size or done} bytes, and {limit} are free or allowed')
            content = answer.read(CHUNK)
            if not content:
                break
            done += len(content)
            file.write(content)
    if size is not None and done != size:
        raise OSError(f'it broke off after {done} of {size} bytes')
