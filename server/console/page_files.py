"""The console's files, read once and served from memory by name. No request path reaches the file system."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

#: Path of the page, and path prefix of its files.
PAGE_PATH = "/"
FILE_PATH = "/console/page/"

_MEDIA_TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}


@dataclass(frozen=True)
class PageFile:
    """One file.

    Attributes:
        content: Its bytes.
        media_type: By its file name extension.
        etag: Changes with the content, so that a browser can revalidate its copy.
    """

    content: bytes
    media_type: str
    etag: str


@cache
def page_files() -> dict[str, PageFile]:
    """All files by name."""
    found: dict[str, PageFile] = {}
    for entry in files(__package__).joinpath("..", "page").iterdir():
        media_type = _MEDIA_TYPES.get(entry.name.rpartition(".")[2])
        if entry.is_file() and media_type is not None:
            content = entry.read_bytes()
            digest = hashlib.blake2b(content, digest_size=12).hexdigest()
            found[entry.name] = PageFile(content, media_type, f'"{digest}"')
    return found


def page_paths() -> list[str]:
    """The paths without data: a browser must load them before a token can be entered."""
    return [PAGE_PATH, *(FILE_PATH + name for name in sorted(page_files()))]
