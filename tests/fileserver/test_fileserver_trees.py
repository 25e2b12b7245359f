"""Deep directory trees: walked with few descriptors, and bounded where requests make them."""

from __future__ import annotations

import base64
import io
import os
import resource
import subprocess
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from noria.fileserver.archive import ZIP_PATH_MAX
from noria.fileserver.request_paths import MAX_DEPTH
from noria.fileserver.root import Root
from noria.fileserver.service import FileService
from noria.fileserver.tree_walk import tree_height, walk_directories
from noria.fileserver.tus.handler import TusHandler
from noria.http.messages import Headers, HTTPException, Request
from support.fileservice import ask, chunks, serving

WAYS = pytest.mark.parametrize("native", [True, False], ids=["openat2", "walk"])
DEEP = 2500  # more than the limit of descriptors, and longer than PATH_MAX


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    """A directory to serve; rm(1) removes it, as it can remove trees of any depth."""
    root = tmp_path / "root"
    root.mkdir()
    yield root
    subprocess.run(["rm", "-rf", str(root)], check=True)


@pytest.fixture
def few_descriptors() -> Iterator[None]:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def nest(top: Path, names: list[str]) -> int:
    """Create nested directories; return the descriptor of the innermost."""
    fd = os.open(top, os.O_RDONLY)
    for name in names:
        os.mkdir(name, dir_fd=fd)
        inner = os.open(name, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = inner
    return fd


def write(directory: int, name: str, data: bytes) -> None:
    fd = os.open(name, os.O_WRONLY | os.O_CREAT, dir_fd=directory)
    os.write(fd, data)
    os.close(fd)


@WAYS
@pytest.mark.usefixtures("few_descriptors")
def test_a_tree_of_any_depth_is_walked(root: Path, native: bool) -> None:
    innermost = nest(root, ["d"] * DEEP)
    write(innermost, "file", b"12345")
    write(innermost, ".noria-0123456789abcdef.part", b"1")
    os.utime(".noria-0123456789abcdef.part", (1, 1), dir_fd=innermost)
    (root / "z").write_bytes(b"1")
    try:

        async def main(service: FileService) -> None:
            assert (await ask(service, "PUT", "/new", b"123")).status == 201
            assert service.files.quota.used == 5 + 1 + 1 + 3
            assert await service.files.remove_stale() == 1
            assert sorted(os.listdir(innermost)) == ["file"]
            assert (await ask(service, "GET", "/", accept="application/json")).status == 200
            assert (await ask(service, "GET", "/" + "d/" * 2000)).status == 200
            at_end = "root" + "/d" * DEEP + "/file"
            body = (await ask(service, "GET", "/", query={"archive": "tar"})).body
            with tarfile.open(fileobj=io.BytesIO(body)) as archive:
                assert len(archive.getnames()) == 1 + DEEP + 3
                assert archive.getnames()[-3:] == [at_end, "root/new", "root/z"]
            body = (await ask(service, "GET", "/", query={"archive": "zip"})).body
            with zipfile.ZipFile(io.BytesIO(body)) as packed:
                assert len(packed.namelist()) == 1 + DEEP + 3
                assert packed.read(at_end) == b"12345"

        serving(main, root, uploads=True, quota=1000, native=native, disk_floor=0)
    finally:
        os.close(innermost)


def test_paths_that_a_zip_cannot_name_are_skipped(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    levels = ZIP_PATH_MAX // 251 + 1
    os.close(nest(root, ["n" * 250] * levels))
    (root / "z").write_bytes(b"1")

    async def main(service: FileService) -> None:
        body = (await ask(service, "GET", "/", query={"archive": "zip"})).body
        with zipfile.ZipFile(io.BytesIO(body)) as packed:
            found = packed.namelist()
        assert len(found) == levels + 1
        assert max(map(len, found)) <= ZIP_PATH_MAX + 1
        assert found[-1] == "root/z"

    serving(main, root)
    assert "lacks 1 entries that cannot be read" in caplog.text


def walked(top: Path) -> Iterator[tuple[list[str], list[str]]]:
    """The path of each directory of the walk, and the names of its entries."""
    fd = os.open(top, os.O_RDONLY)
    try:
        for at, entries in walk_directories(fd):
            yield list(at.names), sorted(each.name for each in entries)
    finally:
        os.close(fd)


def test_a_walk_sees_each_directory_once_and_follows_no_link(root: Path) -> None:
    (root / "a" / "b").mkdir(parents=True)
    (root / "a" / "up").symlink_to("..")
    (root / "c").mkdir()
    (root / "c" / "file").write_bytes(b"")
    assert sorted(walked(root)) == [
        ([], ["a", "c"]),
        (["a"], ["b", "up"]),
        (["a", "b"], []),
        (["c"], ["file"]),
    ]
    fd = os.open(root, os.O_RDONLY)
    assert tree_height(fd, 10) == 2
    os.close(fd)


@pytest.mark.parametrize("to", ["elsewhere", "../outside", "c/e"])
def test_a_walk_continues_when_a_directory_is_moved_meanwhile(root: Path, to: str) -> None:
    """If ".." then leads elsewhere, the walk restarts at the top and never leaves the tree."""
    (root.parent / "outside").mkdir()
    (root.parent / "outside" / "secret").write_bytes(b"")
    (root / "a" / "b" / "c").mkdir(parents=True)
    (root / "a" / "z").mkdir()
    (root / "c").mkdir()
    seen = []
    for names, found in walked(root):
        seen.append(names)
        assert "secret" not in found
        if names == ["a", "b", "c"]:
            (root / "a" / "b").rename(root.parent / "outside" / "b" if "out" in to else root / to)
    assert ["a", "b", "c"] in seen
    assert ["a", "z"] in seen
    assert ["c"] in seen


def test_a_walk_continues_when_directories_are_removed_meanwhile(root: Path) -> None:
    (root / "a" / "b" / "c").mkdir(parents=True)
    (root / "a" / "z").mkdir()
    (root / "c").mkdir()
    seen = []
    for names, _ in walked(root):
        seen.append(names)
        if names == ["a", "b", "c"]:
            subprocess.run(["rm", "-rf", str(root / "a")], check=True)
    assert [] in seen
    assert ["c"] in seen


TOO_DEEP = "too deep"


@WAYS
def test_no_request_makes_a_tree_too_deep(root: Path, native: bool) -> None:
    full = "/" + "d/" * (MAX_DEPTH - 1)

    async def refused(service: FileService, method: str, path: str, **fields: str) -> None:
        answer = await ask(service, method, path, b"", **fields)
        assert (answer.status, TOO_DEEP in answer.body.decode()) == (403, True), (method, path)

    async def main(service: FileService) -> None:
        assert (await ask(service, "PUT", full + "file", b"1")).status == 201
        assert (await ask(service, "MKCOL", full + "last")).status == 201
        await refused(service, "PUT", full + "last/file")
        await refused(service, "MKCOL", full + "last/d")
        body = (
            b'--b\r\nContent-Disposition: form-data; name="f"; filename="x"\r\n\r\n1\r\n--b--\r\n'
        )
        answer = await ask(
            service,
            "POST",
            full + "last/",
            body,
            content_type="multipart/form-data; boundary=b",
        )
        assert answer.status == 403
        (root / "file").write_bytes(b"1")
        await refused(service, "MOVE", "/file", destination=full + "last/file")
        # The depth of a moved directory includes its subdirectories.
        (root / "tree" / "a" / "b").mkdir(parents=True)
        (root / "tree" / "a" / "file").write_bytes(b"1")
        half = "/" + "d/" * (MAX_DEPTH - 3)
        await refused(service, "MOVE", "/tree", destination=half + "d/tree")
        answer = await ask(service, "MOVE", "/tree", destination=half + "tree")
        assert answer.status == 201
        # Deep directories stay reachable, and can be moved up or aside, or removed.
        answer = await ask(service, "MOVE", half + "tree", destination=half + "aside")
        assert answer.status == 201
        assert (await ask(service, "MOVE", half + "aside", destination="/tree")).status == 201
        assert (await ask(service, "GET", full + "last/")).status == 200
        assert (await ask(service, "DELETE", full + "last/")).status == 204
        with pytest.raises(HTTPException, match=TOO_DEEP):
            await service.files.store(full + "more/file", chunks(b"1"), parents=True)
        uploads = TusHandler(service.files)
        headers = {"Tus-Resumable": "1.0.0", "Upload-Length": "1"}
        headers["Upload-Metadata"] = (
            "filename eA==,directory " + base64.b64encode((full + "more/").encode()).decode()
        )
        with pytest.raises(HTTPException, match=TOO_DEEP):
            await uploads.handle(Request("POST", "/-/uploads/", Headers(headers.items())), "")
        uploads.stop()

    os.close(nest(root, ["d"] * (MAX_DEPTH - 1)))
    serving(main, root, uploads=True, native=native, disk_floor=0)


@WAYS
@pytest.mark.usefixtures("few_descriptors")
def test_moves_that_make_a_tree_deeper_and_deeper(root: Path, native: bool) -> None:
    """Each move has short paths; together they would make a tree of any depth."""

    async def main(service: FileService) -> None:
        for number in range(40):
            os.close(nest(root, [f"t{number}", *["d"] * 60]))
        statuses = []
        for number in range(1, 40):
            answer = await ask(
                service, "MOVE", f"/t{number - 1}", destination=f"/t{number}/" + "d/" * 60 + "x"
            )
            statuses.append(answer.status)
        assert set(statuses) == {201, 403}
        fd = os.open(root, os.O_RDONLY)
        try:
            assert tree_height(fd, 10_000) <= MAX_DEPTH
        finally:
            os.close(fd)

    serving(main, root, uploads=True, native=native, disk_floor=0)


@pytest.mark.usefixtures("few_descriptors")
def test_links_are_resolved_with_few_descriptors(root: Path) -> None:
    """As where openat2(2) is missing: ".." in a link leads back along the names."""
    os.close(nest(root, ["d"] * 1000))
    (root / "file").write_bytes(b"inside")
    bottom = "d/" * 1000
    fd = os.open(root / bottom, os.O_RDONLY)
    os.symlink("../" * 1000 + "file", "up", dir_fd=fd)
    os.symlink("../" * 1001 + "file", "out", dir_fd=fd)
    os.symlink("../" * 10 + "d/" * 10 + "up", "back", dir_fd=fd)
    os.symlink("../d/.././/../d/d/up", "about", dir_fd=fd)
    os.symlink("..", "above", dir_fd=fd)
    os.close(fd)
    top = Root(root, native=False)
    try:
        for name in ("up", "back", "about", "above/d/up"):
            fd = top.open(f"/{bottom}{name}", os.O_RDONLY)
            assert os.read(fd, 10) == b"inside", name
            os.close(fd)
        with pytest.raises(HTTPException) as problem:
            top.open(f"/{bottom}out", os.O_RDONLY)
        assert problem.value.status == 403
    finally:
        top.close()
