"""Nothing outside the served directory is read or written: hostile names, links, races."""

from __future__ import annotations

import itertools
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, unquote

import pytest

from noria.fileserver.request_paths import split_path
from noria.fileserver.root import Root
from noria.fileserver.service import FileService
from noria.http.messages import HTTPException
from support.fileservice import ask, hidden, serving
from support.loops import count

SECRET = b"root:x:0:0: this is outside"
WAYS = pytest.mark.parametrize("native", [True, False], ids=["openat2", "walk"])


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A directory to serve, with a file, links of all kinds, and a secret beside it."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(SECRET)
    root = tmp_path / "root"
    (root / "d" / "e").mkdir(parents=True)
    (root / "file").write_bytes(b"inside")
    (root / "d" / "file").write_bytes(b"deeper")
    for name, target in {
        "good": "file",
        "d/good-up": "../file",
        "d/e/good-far": "../../d/./e/../file",
        "good-directory": "d/e/..",
        "bad": "../outside/secret",
        "bad-directory": "../outside",
        "bad-absolute": str(outside / "secret"),
        "bad-own": str(root / "file"),  # absolute, although its target is inside
        "bad-process": "/proc/self/root/etc/passwd",
        "bad-back": "../root/file",
        "loop": "loop",
        "hop-1": "hop-2",
        "hop-2": "hop-1",
        "d/bad-chain": "../bad",
        "nothing": "missing",
    }.items():
        (root / name).symlink_to(target)
    return root


def hostile() -> Iterator[str]:
    """Decoded paths, as a parser of URLs returns them; no response may be a file."""
    ups = ["..", "%2e%2e", "%2E%2e", ".%2e", "%252e%252e", "..%00", "..%0d", "..;", ".. ", "...",
           "..\\", "..%5c", "..%2f", "..%252f", "%c0%ae%c0%ae", "%e0%80%ae%e0%80%ae", "..\x00",
           "\u2024\u2024", "\uff0e\uff0e", "%uff0e%uff0e", "..\ufffd", "\udcc0\udcae"]  # fmt: skip
    slashes = ["/", "\\", "%2f", "%5c", "//", "/./", "%252f", "%c0%af", "\u2215"]
    targets = ["outside/secret", "../outside/secret", "etc/passwd"]
    for up, slash, target in itertools.product(ups, slashes, targets):
        yield "/" + up + slash + target
        yield "/d/" + slash.join([up, up, target])
    for name in ["bad", "bad-absolute", "bad-own", "bad-process", "bad-back", "d/bad-chain",
                 "bad-directory/secret", "loop", "hop-1", "nothing", "fifo", "socket", "device",
                 "good-directory/../../outside/secret", "file/", "file/x", "d//file", "//file",
                 "./file", "d/./file", "d/../file", ".", "..", "d/..", "d/../", "/",
                 ".noria-0123456789abcdef.part", ".noria-uploads/x", "-/x",
                 "file\x00", "file\x00.txt", "file\n", "fi\rle", "file\x7f", "file\x85",
                 "file%00", "file%0a", "d\\file", "d%5cfile", "d%2ffile", "d%252ffile",
                 "a" * 256, "a" * 5000, "é" * 128, "a/" * 2500 + "a", "\udcff", "\ud800",
                 "C:\\boot.ini", "C:/boot.ini", "\\\\host\\share", "file::$DATA", "CON", "~root",
                 "proc/self/environ", "dev/zero", "etc/passwd", "http://host/x"]:  # fmt: skip
        yield "/" + name
    yield from ["", "file", "../file", "\\file", "http://x/file", "*", "\x00", "%2f%2e%2e"]
    for code in [*range(0x20), 0x7F, *range(0x80, 0xA0)]:
        yield f"/fi{chr(code)}le"
        yield f"/..{chr(code)}/outside/secret"


CORPUS = list(dict.fromkeys(hostile()))


def test_the_corpus_is_large() -> None:
    assert len(CORPUS) >= 500


@WAYS
def test_hostile_paths_are_neither_read_nor_written(root: Path, native: bool) -> None:
    os.mkfifo(root / "fifo")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(root / "socket"))
    try:
        os.mknod(root / "device", 0o20666, os.makedev(1, 5))  # /dev/zero: never ends
    except PermissionError:
        (root / "device").symlink_to("/dev/zero")
    before = snapshot(root.parent)

    async def main(service: FileService) -> None:
        for path in CORPUS:
            for method in ("GET", "HEAD"):
                answer = await ask(service, method, path)
                assert answer.status in (400, 403, 404), (method, path, answer.status)
                assert SECRET not in answer.body
        await refused_changes(service)

    serving(main, root, uploads=True, overwrite=True, native=native)
    listener.close()
    assert snapshot(root.parent, root) == {
        path: kept for path, kept in before.items() if not path.is_relative_to(root)
    }
    assert (root / "file").read_bytes() == b"inside"
    assert hidden(root) == []


async def refused_changes(service: FileService) -> None:
    """A file with a hostile name is refused, or stored inside under exactly that name."""
    for path in CORPUS:
        answer = await ask(service, "PUT", path, b"evil")
        if answer.status == 201:
            assert (Path(service.root.path) / path[1:]).read_bytes() == b"evil"
            assert ".." not in path.split("/")
        else:
            assert answer.status in (204, 400, 403, 404, 409), (path, answer.status)
        for method in ("MKCOL", "DELETE"):
            answer = await ask(service, method, path + "x")
            assert answer.status in (201, 204, 400, 403, 404, 405, 409), (path, answer.status)
        answer = await ask(service, "MOVE", "/file", destination=quote(path, errors="replace"))
        if answer.status == 201:
            moved = Path(service.root.path) / unquote(quote(path, errors="replace"))[1:]
            moved.rename(Path(service.root.path) / "file")
        else:
            assert answer.status in (400, 403, 404, 409, 412, 502), (path, answer.status)


def snapshot(top: Path, but: Path | None = None) -> dict[Path, bytes | None]:
    """The paths of all files, and their contents."""
    return {
        path: path.read_bytes() if path.is_file() else None
        for path in top.rglob("*")
        if but is None or not path.is_relative_to(but)
    }


@WAYS
def test_links_that_stay_inside_are_followed(root: Path, native: bool) -> None:
    async def main(service: FileService) -> None:
        for path, body in {
            "/good": b"inside",
            "/d/good-up": b"inside",
            "/d/e/good-far": b"deeper",
            "/good-directory/file": b"deeper",
        }.items():
            answer = await ask(service, "GET", path)
            assert (answer.status, answer.body) == (200, body), path
        assert (await ask(service, "GET", "/good-directory")).status == 308

    serving(main, root, native=native)


@WAYS
def test_a_link_is_replaced_and_never_written_through(root: Path, native: bool) -> None:
    async def main(service: FileService) -> None:
        for name in ("bad", "good"):
            assert (await ask(service, "PUT", f"/{name}", b"new")).status == 204
            assert not (root / name).is_symlink()
            assert (root / name).read_bytes() == b"new"
        assert (await ask(service, "PUT", "/bad-directory/new", b"new")).status == 403
        assert (await ask(service, "DELETE", "/bad-absolute")).status == 204

    serving(main, root, uploads=True, overwrite=True, native=native)
    assert (root / "file").read_bytes() == b"inside"
    assert snapshot(root.parent / "outside") == {root.parent / "outside" / "secret": SECRET}


@WAYS
def test_directories_are_swapped_for_links_meanwhile(root: Path, native: bool) -> None:
    """A thread makes the directory "d" a link to the outside and back, as fast as it can."""
    outside = root.parent / "outside"
    (outside / "file").write_bytes(SECRET)
    (outside / "e").mkdir()
    (root / "swap").symlink_to("../outside")
    before = snapshot(outside)
    ended = threading.Event()
    swaps = 0

    def swap() -> None:
        nonlocal swaps
        while not ended.is_set():
            os.rename(root / "d", root / "kept")
            os.rename(root / "swap", root / "d")
            os.rename(root / "d", root / "swap")
            os.rename(root / "kept", root / "d")
            swaps += 1

    seen: dict[int, int] = {}

    async def main(service: FileService) -> None:
        for number in range(count(2000, 20000)):
            if number % 4 == 3:
                answer = await ask(service, "PUT", f"/d/new-{number}", b"evil")
            elif number % 4 == 2:
                answer = await ask(service, "GET", "/d/", accept="application/json")
                assert b"secret" not in answer.body
            else:
                path = ("/d/file", "/d/e/file", "/d/e/good-far")[number % 3]
                answer = await ask(service, "GET", path)
            assert SECRET not in answer.body
            assert answer.status in (200, 201, 400, 403, 404, 409, 503), answer
            seen[answer.status] = seen.get(answer.status, 0) + 1

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        serving(main, root, uploads=True, native=native)
    finally:
        ended.set()
        thread.join()
    assert snapshot(outside) == before
    assert swaps > 100
    assert seen[200] > 0
    assert seen.get(403, 0) + seen.get(404, 0) > 0  # some requests met the link


def test_names_gives_the_parts_of_a_plain_path() -> None:
    assert split_path("/") == []
    assert split_path("/a/b c/é/") == ["a", "b c", "é"]
    assert split_path("/100%/...") == ["100%", "..."]
    with pytest.raises(HTTPException, match="UTF-8"):
        split_path("/\udcff")


def test_a_root_must_be_a_directory(root: Path) -> None:
    with pytest.raises(NotADirectoryError):
        Root(root / "file")
    with pytest.raises(FileNotFoundError):
        Root(root / "missing")
