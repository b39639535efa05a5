"""Recognise files that took the place of another in a download: pointers of Git LFS, web pages, compressed files."""

import re

HTML = re.compile(rb'\s*<(!doctype|html|head|\?xml)', re.IGNORECASE)
SIGNATURES = {
    b'version https://git-lfs': 'is a pointer of Git LFS, not the file itself: run `git lfs pull`',
    b'\x1f\x8b': 'is compressed by gzip: unpack it with gunzip',
    b'BZh': 'is compressed by bzip2: unpack it with bunzip2',
    b'\xfd7zXZ\0': 'is compressed by xz: unpack it with unxz',
    b'\x28\xb5\x2f\xfd': 'is compressed by zstd: unpack it with unzstd',
}
# Enough bytes of a file for `foreign_kind`.
NUM_BYTES = 512


def foreign_kind(start: bytes) -> str | None:
    """Describe a file that is not what its name says, and the fix, as a predicate to its name; None if it is not known.

    Args:
        start: first `NUM_BYTES` bytes of the file.
    """
    if HTML.match(start):
        return 'is a web page: the address leads to a page of the site, use the link to the file itself'
    return next((kind for signature, kind in SIGNATURES.items() if start.startswith(signature)), None)
