"""noria.os and noria.path behave as os and os.path, on every loop."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest

import noria
from support.file_engines import LOOPS_AND_ENGINES, describe_error, make_runner, result_or_error


@pytest.fixture(params=LOOPS_AND_ENGINES, ids="-".join)
def go(request, monkeypatch):
    return make_runner(request.param, monkeypatch)


def tree(top: Path) -> None:
    """Files, directories and links of all kinds."""
    (top / "d" / "e").mkdir(parents=True)
    (top / "d" / "file").write_bytes(b"12345")
    (top / "d" / "e" / "deep").write_text("x")
    (top / "empty").mkdir()
    (top / "to file").symlink_to("d/file")
    (top / "to directory").symlink_to("d")
    (top / "dangling").symlink_to("nowhere")
    os.mkfifo(top / "pipe")


def now(function: Any, *arguments: Any, **more: Any) -> Any:
    """The built-in function's result, or its error as a value."""
    try:
        return function(*arguments, **more)
    except Exception as error:
        return describe_error(error)


NAMES = (
    "d",
    "d/file",
    "to file",
    "to directory",
    "dangling",
    "pipe",
    "nothing",
    "d/file/x",
    "x" * 300,
    "",
)


def test_queries_of_a_path(go, tmp_path):
    tree(tmp_path)

    async def main() -> None:
        for name in NAMES:
            path = str(tmp_path / name) if name else ""
            for form in (path, os.fsencode(path), Path(path) if path else path):
                for links in (True, False):
                    mine = await result_or_error(noria.os.stat(form, follow_symlinks=links))
                    assert mine == now(os.stat, form, follow_symlinks=links)
                assert await result_or_error(noria.os.lstat(form)) == now(os.lstat, form)
                for function in ("exists", "lexists", "isfile", "isdir", "islink"):
                    ask = getattr(noria.path, function)
                    assert await ask(form) == getattr(os.path, function)(form), (function, form)
                for function in ("getsize", "getmtime", "getatime", "getctime"):
                    mine = await result_or_error(getattr(noria.path, function)(form))
                    assert mine == now(getattr(os.path, function), form)
            assert await result_or_error(noria.os.readlink(path)) == now(os.readlink, path)
            assert await result_or_error(noria.os.listdir(path)) == now(os.listdir, path)
            assert await noria.os.access(path, os.R_OK) == os.access(path, os.R_OK)
        for bad in ("a\0b", b"a\0b"):
            assert (await result_or_error(noria.os.stat(bad)))[0] == "ValueError"
            assert not await noria.path.exists(bad)

    go(main())


def test_stat_has_every_field(go, tmp_path):
    (tmp_path / "file").write_bytes(b"x" * 5000)
    os.utime(tmp_path / "file", ns=(-1_500_000_001, 2**33 * 10**9 + 7))

    async def main() -> None:
        for path in (tmp_path, tmp_path / "file", "/dev/null"):
            mine, theirs = await noria.os.stat(path), os.stat(path)
            for field in (name for name in dir(theirs) if name.startswith("st_")):
                if path == tmp_path / "file" or "time" not in field:
                    assert getattr(mine, field) == getattr(theirs, field), (path, field)

    go(main())


def test_what_changes_a_directory(go, tmp_path):
    async def main() -> None:
        here = noria.os
        top = tmp_path / "top"
        await here.mkdir(top, 0o750)
        assert stat.S_IMODE(top.stat().st_mode) == 0o750 & ~umask()
        await here.makedirs(top / "a" / "b" / "c")
        await here.makedirs(top / "a" / "b", exist_ok=True)
        with pytest.raises(FileExistsError) as caught:
            await here.makedirs(top / "a" / "b")
        assert caught.value.filename == str(top / "a" / "b")
        (top / "file").write_text("kept")
        with pytest.raises(FileExistsError):
            await here.makedirs(top / "file", exist_ok=True)
        await here.link(top / "file", top / "other")
        assert await noria.path.samefile(top / "file", top / "other")
        await here.symlink("other", top / "link")
        assert await here.readlink(top / "link") == "other"
        await here.rename(top / "other", top / "a" / "moved")
        (top / "a" / "moved").unlink()
        (top / "a" / "moved").write_text("written over")
        await here.replace(top / "file", top / "a" / "moved")
        assert (top / "a" / "moved").read_text() == "kept"
        assert not await noria.path.exists(top / "link")
        await here.truncate(top / "a" / "moved", 2)
        assert (top / "a" / "moved").read_text() == "ke"
        await here.remove(top / "link")
        await here.unlink(top / "a" / "moved")
        await here.rmdir(top / "a" / "b" / "c")
        await here.removedirs(top / "a" / "b")
        assert [path.name for path in tmp_path.iterdir()] == ["beside"]  # removedirs stops there

    (tmp_path / "keeps this directory").touch()

    async def and_errors() -> None:
        for function, arguments in (
            ("mkdir", (tmp_path,)),
            ("mkdir", (tmp_path / "no" / "where",)),
            ("rmdir", (tmp_path,)),
            ("rmdir", (tmp_path / "keeps this directory",)),
            ("remove", (tmp_path,)),
            ("unlink", (tmp_path / "nothing",)),
            ("rename", (tmp_path / "nothing", tmp_path / "new")),
            ("rename", (tmp_path, tmp_path / "keeps this directory")),
            ("link", (tmp_path / "nothing", tmp_path / "new")),
            ("symlink", ("x", tmp_path / "keeps this directory")),
            ("truncate", (tmp_path, 0)),
        ):
            words = tuple(str(a) if isinstance(a, Path) else a for a in arguments)
            mine = await result_or_error(getattr(noria.os, function)(*words))
            assert mine == now(getattr(os, function), *words), function
            assert mine[0] != "NoneType"

    go(and_errors())
    (tmp_path / "keeps this directory").rename(tmp_path / "beside")
    go(main())


def umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@pytest.mark.parametrize("topdown", [True, False])
@pytest.mark.parametrize("followlinks", [True, False])
def test_walk_and_scandir(go, tmp_path, topdown, followlinks):
    tree(tmp_path)

    def plain(found: Any) -> Any:
        return [(top, sorted(directories), sorted(files)) for top, directories, files in found]

    async def main() -> None:
        mine = [step async for step in noria.os.walk(tmp_path, topdown, None, followlinks)]
        theirs = os.walk(tmp_path, topdown, None, followlinks)
        assert sorted(plain(mine)) == sorted(plain(theirs))
        seen: list[str] = []
        async for _, directories, _files in noria.os.walk(tmp_path):
            seen += directories
            directories[:] = [name for name in directories if name == "d"]
        assert "e" in seen
        errors: list[OSError] = []
        assert [s async for s in noria.os.walk(tmp_path / "no", True, errors.append)] == []
        assert [error.filename for error in errors] == [str(tmp_path / "no")]
        async with await noria.os.scandir(tmp_path) as entries:
            names = {entry.name: entry.is_dir() async for entry in entries}
        assert names == {entry.name: entry.is_dir() for entry in os.scandir(tmp_path)}

    go(main())


def test_descriptors_in_the_place_of_paths(go, tmp_path):
    tree(tmp_path)

    async def main() -> None:
        top = os.open(tmp_path, os.O_RDONLY)
        try:
            assert await noria.os.stat(top) == os.stat(top)
            assert await noria.os.stat("d/file", dir_fd=top) == os.stat("d/file", dir_fd=top)
            await noria.os.mkdir("new", dir_fd=top)
            await noria.os.rename("new", "newer", src_dir_fd=top, dst_dir_fd=top)
            await noria.os.rmdir("newer", dir_fd=top)
            await noria.os.unlink("d/file", dir_fd=top)
            assert not (tmp_path / "d" / "file").exists()
            assert (await noria.os.statvfs(top)).f_bsize == os.statvfs(top).f_bsize
            assert await noria.path.isdir(top)
        finally:
            os.close(top)

    go(main())
