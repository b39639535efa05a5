"""Links to files outside of docs/ work in the repository; the site has no such files and shows their text."""

import posixpath
import re
from typing import Any

LINK = re.compile(r'(?<!!)\[([^\]]+)\]\((\.\./[^)\s]*)\)')


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Called by mkdocs with the source of each page."""
    folder = posixpath.dirname(page.file.src_uri)

    def shown(match: re.Match[str]) -> str:
        leaves = posixpath.normpath(posixpath.join(folder, match[2])).startswith('..')
        return match[1] if leaves else match[0]

    return LINK.sub(shown, markdown)
