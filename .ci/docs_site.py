"""What mkdocs.yml cannot say: README.md as the first page, API pages, links out of docs/."""

import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("vistune", "tune", "search_spaces", "trainables")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put into the navigation what is found, not listed: other pages of docs/, and the API."""
    nav: list[Any] = list(config.nav or [])
    listed = set(re.findall(r"[\w./-]+\.md", str(nav)))

    found = sorted(path.relative_to(ROOT / "docs") for path in (ROOT / "docs").rglob("*.md"))
    others = [str(path) for path in found if str(path) not in listed]
    if others:
        nav.append({"Notes": others})

    nav.append({"API": [{room: page_of(room)} for room in rooms()]})
    config.nav = nav
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that no file in docs/ holds, and the style of all."""
    style = (ROOT / ".ci/site.css").read_text()
    files.append(File.generated(config, "site.css", content=style))
    files.append(File.generated(config, "index.md", content=first_page()))
    for room in rooms():
        files.append(File.generated(config, page_of(room), content=api_page(room)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Turn links to files outside of docs/ into their names; the site does not hold them."""

    def shorten(link: re.Match[str]) -> str:
        text, target = link[1], link[2].partition("#")[0]
        leads_out = (ROOT / "docs" / page.file.src_uri).parent.joinpath(target).resolve()
        outside = ROOT / "docs" not in leads_out.parents

        if outside and leads_out == ROOT / "README.md":
            return f"[{text}]({'../' * page.file.src_uri.count('/')}index.md)"
        return text if outside else link[0]

    return re.sub(r"(?<!!)\[([^\]]+)\]\((?!https?:|#|mailto:)([^)\s]+)\)", shorten, markdown)


def first_page() -> str:
    """README.md, whose links begin at the root of the repository."""
    text = (ROOT / "README.md").read_text()
    return re.sub(r"(\]\(|src=\")docs/", r"\1", text)


def rooms() -> list[str]:
    """Packages and their sub-packages: `tune`, `tune.cli`, ..."""
    found = []
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("__init__.py")):
            found.append(".".join(path.parent.relative_to(ROOT).parts))
    return found


def page_of(room: str) -> str:
    """Name of a room's page."""
    return f"api/{room}.md"


def api_page(room: str) -> str:
    """The room's own docstring, and every public module in it."""
    folder = ROOT.joinpath(*room.split("."))
    lines = [f"# {room}", "", f"::: {room}", "    options:", "      show_root_heading: false", ""]

    for path in sorted(folder.glob("*.py")):
        if not path.stem.startswith("_"):
            lines += [f"::: {room}.{path.stem}", ""]

    return "\n".join(lines)
