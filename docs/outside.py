"""What the site takes from outside ``docs/``: the README as its first page, and the pages, pictures and notebooks that others link to.

A link to anything else of the repository, such as a source file, becomes plain text on the site. mkdocs calls the two hooks.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^()\s]+)\)")
SHOWN = (".md", ".png", ".svg", ".ipynb")
HOME = "README.md"
WIDE = ("methods.md", "accounting.md")  # pages of wide tables, which get the room of the table of contents


def target(source: str, link: str) -> str | None:
    """The file that a link of the file ``source`` means, both as paths in the repository; None for an address or an anchor."""
    path = link.partition("#")[0]
    return None if "://" in link or not path else posixpath.normpath(posixpath.join(posixpath.dirname(source), path))


def site_path(path: str) -> str:
    """Where a file of the repository lies on the site."""
    return "index.md" if path == HOME else path.removeprefix("docs/")


def linked(root: Path) -> list[str]:
    """Every file outside ``docs/`` that the README, a page of ``docs/`` or such a file links to and the site can show."""
    found = [HOME, *sorted(str(page.relative_to(root)) for page in (root / "docs").rglob("*.md"))]
    for source in found:
        if source.endswith(".md"):
            links = (target(source, link) for _, _, link in LINK.findall((root / source).read_text(encoding="utf-8")))
            found += dict.fromkeys(
                path
                for path in links
                if path and path.endswith(SHOWN) and path not in found and (root / path).is_file()
            )
    return [path for path in found if not path.startswith("docs/")]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the files from outside ``docs/``."""
    root = Path(config.config_file_path).parent
    for path in linked(root):
        files.append(File.generated(config, site_path(path), abs_src_path=str(root / path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links as they are in the repository, made links of the site."""
    if page.file.src_uri in WIDE:
        page.meta["hide"] = ["toc"]
    root = Path(config.config_file_path).parent
    source = posixpath.relpath(str(page.file.abs_src_path), str(root))

    def of_the_site(match: re.Match) -> str:
        picture, text, link = match.groups()
        path = target(source, link)
        if path is None:
            return match[0]
        if not (root / path).exists():
            return match[0]
        there = site_path(path)
        if files.get_file_from_path(there) is None:
            return LINK.sub(of_the_site, text)
        away = posixpath.relpath(there, posixpath.dirname(page.file.src_uri) or ".")
        anchor = link.partition("#")[2]
        return f"{picture}[{LINK.sub(of_the_site, text)}]({away}{'#' if anchor else ''}{anchor})"

    return LINK.sub(of_the_site, markdown)
