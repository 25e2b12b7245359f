"""Links and paths in the documentation lead to files that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(
    not (ROOT / "bench").exists(), reason="the sdist has no bench/, to which pages link"
)
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("*/README.md")]

# Folders of websockets and tests of aiofiles, which the pages name too.
OTHER_PROJECTS = ("tests/asyncio", "tests/legacy", "tests/threadpool/", "tests/test_os.py")

LINK = re.compile(r"\]\((?![a-z]+:|#)([^)\s#]+)(?:#([^)\s]*))?\)")
# src, srcset and href of HTML in Markdown.
ATTRIBUTE = re.compile(r"(?:src|srcset|href)=\"(?![a-z]+:|#)([^\"#]+)\"")
FENCE = re.compile(r"^```.*?^```|^(?:    [^\n]*\n)+", re.DOTALL | re.MULTILINE)
CODE = re.compile(r"`([^`\n]+)`")


def prose(page: Path) -> str:
    """The text of a page without its blocks of code."""
    return FENCE.sub("", page.read_text())


def anchors(page: Path) -> set[str]:
    """The anchors that code hosts and MkDocs make of the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    kept = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {text.strip().replace(" ", "-") for text in kept}


def section(title: str) -> str:
    """A section of ARCHITECTURE.md."""
    text = (ROOT / "ARCHITECTURE.md").read_text()
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)
    assert found is not None, title
    return found[1]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links(page: Path) -> None:
    text = prose(page)
    for target, anchor in LINK.findall(text):
        path = page.parent / target
        assert path.exists(), f"{target} does not exist"
        assert not anchor or anchor in anchors(path), f"{target} has no heading #{anchor}"
    for target in ATTRIBUTE.findall(text):
        assert (page.parent / target).exists(), f"{target} does not exist"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_paths(page: Path) -> None:
    """Paths from the root of the repository, written as code, exist."""
    for code in CODE.findall(prose(page)):
        found = re.fullmatch(r"((?:src|tests|docs|bench|examples)/[\w./-]+)(?:::.*)?", code)
        if found and not code.startswith(OTHER_PROJECTS):
            assert (ROOT / found[1]).exists(), f"{found[1]} does not exist"


def test_tests_named_by_ci() -> None:
    """pytest ignores a --deselect that matches no test."""
    for script in (ROOT / ".ci").iterdir():
        for path, name in re.findall(r"(tests/[\w/]+\.py)(?:::(\w+))?", script.read_text()):
            if path == "tests/file.py":  # a placeholder in a comment
                continue
            assert (ROOT / path).exists(), f"{script.name}: {path} does not exist"
            if name:
                source = (ROOT / path).read_text()
                assert f"def {name}(" in source, f"{script.name}: {path} has no {name}"


def test_source_files_in_the_design_pages() -> None:
    """Names such as `aio/run.py` are the end of a source file's path."""
    sources = [str(path) for path in (ROOT / "src").rglob("*.p*")]
    for page in [*ROOT.glob("docs/design/*.md"), ROOT / "docs" / "free-threading.md"]:
        for code in CODE.findall(prose(page)):
            if re.fullmatch(r"[\w/]+\.(py|pyx|pxd)", code) and not code.startswith("tests/"):
                found = any(path.endswith(f"/{code}") for path in sources)
                assert found, f"{page.name}: no file {code}"


def test_the_rooms() -> None:
    cells = re.findall(r"^\| (`.*?) \|", section("The rooms"), re.MULTILINE)
    assert len(cells) > 15
    top = ROOT / "src" / "noria"
    for cell in cells:
        # Names in parentheses are folders of the room before them.
        room, *parts = cell.split(" (")
        paths = [top / name for name in CODE.findall(room)]
        paths += [paths[0] / name for part in parts for name in CODE.findall(part)]
        for path in paths:
            assert path.exists(), f"{path.relative_to(ROOT)} does not exist"


def test_every_package_is_a_room() -> None:
    named = set(CODE.findall(section("The rooms")))
    for package in (ROOT / "src" / "noria").glob("*/__init__.py"):
        assert f"{package.parent.name}/" in named, f"ARCHITECTURE.md lacks {package.parent.name}/"


def test_where_is_it_decided() -> None:
    rows = re.findall(r"^\| .*\? \| (.*) \|$", section("Where is X decided?"), re.MULTILINE)
    assert len(rows) == 10
    for row in rows:
        paths = [code for code in CODE.findall(row) if code.startswith("src/")]
        assert paths, row
        for path in paths:
            assert (ROOT / path).is_file(), f"{path} does not exist"
