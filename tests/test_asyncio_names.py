"""The table of asyncio's private names fits the running Python, and it is complete."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest

from noria.aio import asyncio_names
from noria.aio.asyncio_names import NAMES, PrivateName

SOURCES = Path(asyncio_names.__file__).parents[1]
TEXTS = {
    path.relative_to(SOURCES).as_posix(): path.read_text()
    for pattern in ("aio/*.py", "_core/aio/*.pyx")
    for path in sorted(SOURCES.glob(pattern))
    if path.name != "asyncio_names.py"
}

# Files whose names are not yet in the table.
NOT_IN_TABLE = {
    "aio/loop.py",
    "aio/sendfile.py",
    "_core/aio/core.pyx",
    "_core/aio/connection.pyx",
}

# Names that asyncio has too, and that are noria's own where they are used: file and name.
OWN = {
    ("aio/sendfile.py", "_loop"),
}


def module_of(file: str) -> str:
    return "noria." + file.rpartition(".")[0].replace("/", ".")


def test_every_name_is_known_to_this_python() -> None:
    assert asyncio_names.unknown() == []


def test_a_name_is_in_the_table_once() -> None:
    keys = [(entry.owner, entry.name) for entry in NAMES]
    assert len(keys) == len(set(keys))


@pytest.mark.parametrize("entry", NAMES, ids=lambda entry: f"{entry.owner}.{entry.name}")
def test_an_entry_is_complete_and_used(entry: PrivateName) -> None:
    assert entry.reason
    assert entry.fallback
    files = [file for file in TEXTS if module_of(file) in entry.used_by.split(", ")]
    assert len(files) == len(entry.used_by.split(", ")), "used_by names a module that is not there"
    word = re.compile(rf"\b{entry.name}\b")
    assert any(word.search(TEXTS[file]) for file in files), "noria no longer uses it"


def names_of_asyncio() -> set[str]:
    """All private names in the source of asyncio, in the package and in its C half."""
    found: set[str] = set()
    for path in Path(asyncio.__file__).parent.glob("*.py"):
        found.update(re.findall(r"\b_[a-z]\w*", path.read_text()))
    import _asyncio

    for value in (_asyncio, *vars(_asyncio).values()):
        found.update(name for name in dir(value) if re.fullmatch(r"_[a-z]\w*", name))
    return found


def test_every_private_name_in_use_is_in_the_table() -> None:
    theirs = names_of_asyncio()
    listed = {(module, entry.name) for entry in NAMES for module in entry.used_by.split(", ")}
    missing = []
    for file, text in TEXTS.items():
        if file in NOT_IN_TABLE:
            continue
        for number, line in enumerate(text.splitlines(), 1):
            for name in re.findall(r"\._[a-z]\w*", line.partition("#")[0]):
                name = name[1:]
                if name not in theirs or (file, name) in OWN or line.startswith(("from", "import")):
                    continue
                if (module_of(file), name) not in listed:
                    missing.append(
                        f"{file}:{number} uses asyncio's {name}: add it to asyncio_names.NAMES"
                    )
    assert not missing, "\n".join(missing)
