"""What the site adds to the pages of `docs/`: the README as its first page, the reference, the navigation.

The pages are written for readers of the repository, so links that leave `docs/` are rewritten here: links to pages at
the root lead to their copies, links to source code become the path of the file.
"""

from __future__ import annotations

import importlib
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
#: Pages at the root of the repository -> their path on the site.
AT_ROOT = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "CODE_OF_CONDUCT.md": "code-of-conduct.md",
    "SECURITY.md": "reporting.md",
}
#: `docs/README.md`, the list of all pages; under its own name it would replace the first page of the site.
CONTENTS = "contents.md"
#: Modules of the reference, with the titles of their pages.
REFERENCE = {
    "umbel": "Workflows, steps, events, handlers",
    "umbel.errors": "Errors",
    "umbel.retry_policy": "Retry policies",
    "umbel.testing": "Testing",
    "umbel.server": "HTTP server",
}
#: Script for searching on pages opened from a folder; the offline plugin would load one from another site.
SHIM = "assets/file_worker.js"
_FOREIGN_SHIM = re.compile(r"https://unpkg\.com/iframe-worker/[^\s\"]*")
_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\]\([^)]*\))*)\]\(([^)\s]+)\)")
_FENCED = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)


def on_startup(command: str, dirty: bool) -> None:
    """Put the package into a folder named after it, for the reference: in the repository the root is the package."""
    folder = ROOT / "build" / "package" / "umbel"
    folder.mkdir(parents=True, exist_ok=True)
    inside = [ROOT / name for name in ("__init__.py", "public_names.py", "orchestration", "tasks", "server", "workers")]
    for path in (*inside, *(public.parent for public in ROOT.glob("tasks/public/*/__init__.py"))):
        if not (folder / path.name).is_symlink():
            (folder / path.name).symlink_to(path)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are outside `docs/`."""
    listed = files.get_file_from_path("README.md")
    assert listed is not None
    files.remove(listed)
    made = {CONTENTS: (ROOT / "docs" / "README.md").read_text()}
    made |= {place: (ROOT / name).read_text() for name, place in AT_ROOT.items()}
    made |= {f"reference/{module}.md": _reference(module, title) for module, title in REFERENCE.items()}
    for place, text in made.items():
        files.append(File.generated(config, place, content=text))
    files.append(File.generated(config, SHIM, content=Path(__file__).with_name("file_worker.js").read_text()))
    return files


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Build the navigation from the list of all pages and its headings."""
    sections: list[Any] = [{"umbel": "index.md"}]
    for heading, lines in re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", _contents(), re.MULTILINE | re.DOTALL):
        pages = [
            {title.replace("`", ""): place}
            for title, target in re.findall(r"^\* \[(.+?)\]\((.+?)\)", lines, re.MULTILINE)
            if (place := _place(target, "README.md")) and place != "index.md"
        ]
        sections.append({heading: pages})
    sections.append({"Reference": [{title: f"reference/{module}.md"} for module, title in REFERENCE.items()]})
    decisions = sorted((ROOT / "docs" / "decisions").glob("*.md"))
    sections.append({"Decisions": [f"decisions/{path.name}" for path in decisions]})
    rest = [{"Reporting a vulnerability": "reporting.md"}, {"Code of conduct": "code-of-conduct.md"}]
    config.nav = [*sections, {"All pages": CONTENTS}, {"Community": rest}]
    return config


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Rewrite the links that leave `docs/`."""
    source = page.file.src_uri
    written = next((name for name, place in AT_ROOT.items() if place == source), None)
    origin = f"../{written}" if written else "README.md" if source == CONTENTS else source

    def changed(match: re.Match[str]) -> str:
        is_picture, text, target = match.groups()
        text = _LINK.sub(changed, text)
        if re.match(r"[a-z]+:|#", target):
            return f"{is_picture}[{text}]({target})"
        path, _, anchor = target.partition("#")
        place = _place(path, origin)
        if place is None:
            file = posixpath.normpath(posixpath.join("docs", posixpath.dirname(origin), path))
            return f"{text} (`{file}`)"
        here = posixpath.dirname(source)
        return f"{is_picture}[{text}]({posixpath.relpath(place, here or '.')}{'#' + anchor if anchor else ''})"

    parts = _FENCED.split(markdown)
    return "".join(part if part.startswith("```") else _LINK.sub(changed, part) for part in parts)


def on_post_build(config: MkDocsConfig) -> None:
    """Load the search script from the site itself: the offline plugin has put the external one into finished pages."""
    site = Path(config.site_dir)
    for page in site.rglob("*.html"):
        here = posixpath.relpath(SHIM, page.parent.relative_to(site).as_posix())
        page.write_text(_FOREIGN_SHIM.sub(here, page.read_text()))


def _contents() -> str:
    return (ROOT / "docs" / "README.md").read_text()


def _place(target: str, origin: str) -> str | None:
    """The path of a link's target on the site, or None if it is not on the site; `origin` is relative to `docs/`."""
    path = posixpath.normpath(posixpath.join("docs", posixpath.dirname(origin), target))
    if path in AT_ROOT:
        return AT_ROOT[path]
    if path == "docs/README.md":
        return CONTENTS
    return path.removeprefix("docs/") if path.startswith("docs/") and (ROOT / path).is_file() else None


def _reference(module: str, title: str) -> str:
    """A page with the public names of a module; each name is on one page only."""
    others = [
        name for page in REFERENCE if page.startswith(f"{module}.") for name in importlib.import_module(page).__all__
    ]
    names = importlib.import_module(module)
    parts = []
    for name in sorted(set(names.__all__).difference(others), key=str.lower):
        value = getattr(names, name)
        if hasattr(value, "__qualname__"):  # not a type alias
            defined = f"{value.__module__}.{value.__qualname__}"
            parts.append(f'::: {defined}\n    options:\n      heading: "{name}"\n')
    return f"# {title}\n\n`from {module} import …`\n\n" + "\n".join(parts)
