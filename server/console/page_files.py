"""The console's files: read once, known by name, served from memory. No request's path reaches a file system."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

#: Where the page itself is, and what its files are called in addresses.
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
        media_type: By its name's end.
        etag: Changes with the content, so that a browser asks and need not load again.
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
    """The exact paths that hold no data: a browser has to load them before anybody can type a token."""
    return [PAGE_PATH, *(FILE_PATH + name for name in sorted(page_files()))]
