"""`noria compare files`: where the bytes are after each step, and the report of it."""

import asyncio
import errno
import io
import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest

pytest.importorskip("click")

from rich.console import Console

import noria
from noria._core.files.page_cache import cachestat, mincore_pages
from noria.cli.main import run
from noria.compare.files import figure, held, page, place, steps, terminal
from noria.compare.files.held import PAGE, Counter
from noria.compare.files.run import measure
from noria.compare.files.watch import Ticker
from support.chromium import PROGRAM, Browser
from support.file_engines import ring_works

SIZE = 10 * PAGE + 100
ENGINES = ["ring", "threads"] if ring_works() else ["threads"]
COMMAND = [sys.executable, "-m", "noria", "compare", "files"]


def refuse(number):
    def cachestat(fd):
        raise OSError(number, os.strerror(number))

    return cachestat


def cachestat_works(directory):
    """Return whether cachestat(2) exists and counts pages on this file system."""
    path = directory / "asked"
    path.write_bytes(b"x")
    counter = Counter()
    with path.open("rb") as file:
        counter.check(file.fileno())
    path.unlink()
    return counter.call == "cachestat"


@pytest.fixture
def device(tmp_path):
    """A directory with a device behind it."""
    if not place.find(str(tmp_path))["device"]:
        pytest.skip("needs a device: the directory for temporary files is in memory")
    return tmp_path


@pytest.fixture
def counted(device):
    """The same, where cachestat works."""
    if not cachestat_works(device):
        pytest.skip("needs cachestat(2): Linux 6.5, and a file system whose pages it counts")
    return device


def walked(directory, size, engine, monkeypatch, counter=None):
    """Return the rows of one run, by step."""
    monkeypatch.setenv("NORIA_FILES", engine)

    async def main():
        walk = steps.Walk(str(directory), counter or Counter())
        assert walk.engine == engine
        try:
            return await walk.run(os.urandom(size))
        finally:
            walk.stop()

    rows = noria.run(main())
    assert os.listdir(directory) == []
    return {row["step"]: row for row in rows}


def pages(size):
    return -(-size // PAGE) * PAGE


# -- where the bytes are ---------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("size", [1, SIZE, 3 * 1024 * 1024])
def test_every_step_moves_the_bytes(engine, size, counted, monkeypatch):
    rows = walked(counted, size, engine, monkeypatch)

    def seen(step):
        return tuple(rows[step][key] for key in ("buffer", "cached", "dirty", "device"))

    assert seen("write") == (size, 0, 0, 0)
    assert seen("flush")[:2] == (0, pages(size))
    assert rows["flush"]["dirty"] + rows["flush"]["writeback"] <= pages(size)
    assert seen("fsync") == (0, pages(size), 0, size)
    assert seen("read cached") == (0, pages(size), 0, size)
    assert seen("drop") == (0, 0, 0, size)
    assert seen("read dropped") == (0, pages(size), 0, size)
    assert all(row["writeback"] == 0 for step, row in rows.items() if step in ("fsync", "drop"))


@pytest.mark.parametrize("engine", ENGINES)
def test_direct_leaves_the_cache_alone(engine, counted, monkeypatch):
    rows = walked(counted, 64 * 1024, engine, monkeypatch)
    if "direct write" not in rows or rows["direct write"]["note"]:
        pytest.skip("needs O_DIRECT: this file system goes through the cache")
    for step in ("direct write", "direct read"):
        assert rows[step]["buffer"] == rows[step]["cached"] == 0
        assert rows[step]["device"] == 64 * 1024
        assert rows[step]["waited"] == engine


@pytest.mark.parametrize("engine", ENGINES)
def test_whether_the_loop_or_the_engine_waited(engine, tmp_path, monkeypatch):
    rows = walked(tmp_path, SIZE, engine, monkeypatch)
    assert rows["write"]["waited"] == "loop"
    assert rows["flush"]["waited"] == rows["fsync"]["waited"] == engine
    # The loop reads small cached data itself where the file system supports RWF_NOWAIT.
    assert rows["read cached"]["waited"] in ("loop", engine)
    assert all(row["us"] > 0 and row["stall_us"] >= 0 for row in rows.values())


@pytest.mark.parametrize("number", held.UNSUPPORTED_ERRNOS)
def test_mincore_where_cachestat_is_refused(number, device, monkeypatch):
    monkeypatch.setattr(held, "cachestat", refuse(number))
    counter = Counter()
    rows = walked(device, SIZE, "threads", monkeypatch, counter)
    assert counter.call == "mincore"
    assert errno.errorcode[number] in counter.reason
    assert all(row["dirty"] is row["writeback"] is None for row in rows.values())
    known = {step: (row["cached"], row["device"]) for step, row in rows.items()}
    assert known["write"] == (0, 0)
    assert known["flush"] == (pages(SIZE), None)  # mincore(2) does not report dirty pages
    assert known["fsync"] == known["read dropped"] == (pages(SIZE), SIZE)
    assert known["drop"] == (0, SIZE)


def test_mincore_where_cachestat_sees_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(held, "cachestat", lambda fd: (0, 0, 0))
    counter = Counter()
    path = tmp_path / "file"
    path.write_bytes(bytes(SIZE))
    with path.open("rb") as file:
        counter.check(file.fileno())
        assert counter.cached_bytes(file.fileno()) == (pages(SIZE), None, None)
    assert counter.call == "mincore"


def test_other_errors_are_reported(tmp_path, monkeypatch):
    with pytest.raises(OSError, match="Bad file descriptor"):
        cachestat(-1)
    with pytest.raises(OSError, match="Bad file descriptor"):
        mincore_pages(-1, 1)
    monkeypatch.setattr(held, "cachestat", refuse(errno.EBADF))
    with pytest.raises(OSError, match="Bad file descriptor"):
        Counter().cached_bytes(0)


@pytest.mark.parametrize("size", [0, 1, PAGE, PAGE + 1, 5000 * PAGE])
def test_both_calls_agree(size, tmp_path):
    if not cachestat_works(tmp_path):
        pytest.skip("needs cachestat(2): Linux 6.5, and a file system whose pages it counts")
    path = tmp_path / "file"
    with path.open("wb+", 0) as file:
        file.write(bytes(size))
        fd = file.fileno()
        assert cachestat(fd)[0] == mincore_pages(fd, size) == pages(size) // PAGE
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        # a part of it, and no read-ahead, whose pages one call counts before they have come
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
        os.pread(fd, 1, size // 2)
        assert cachestat(fd)[0] == mincore_pages(fd, size)


def test_direct_steps_are_skipped_where_o_direct_is_refused(tmp_path, monkeypatch):
    async def refused(*_):
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(steps.Walk, "_direct", refused)
    rows = walked(tmp_path, SIZE, "threads", monkeypatch)
    assert list(rows) == [step for step in steps.STEPS if not step.startswith("direct")]
    assert rows["read dropped"]["note"] == steps.NO_DIRECT


def test_a_stall_is_seen():
    async def main():
        ticker = Ticker(asyncio.get_running_loop())
        ticker.start()
        time.sleep(0.05)
        stalled = await ticker.longest()
        ticker.stop()
        return stalled

    assert noria.run(main()) >= 0.05


# -- the place -------------------------------------------------------------------------------------

MOUNTS = r"""
1 0 8:1 / / rw - ext4 /dev/sda1 rw
2 1 0:5 / /tmp rw,nosuid shared:3 - tmpfs tmpfs rw
3 1 0:6 / /tmp/a\040b rw - nfs4 host:/x rw
4 1 0:7 / /tmp rw - xfs /dev/sdb rw
nonsense
"""


def test_the_longest_and_latest_mount_counts(tmp_path):
    mounts = tmp_path / "mountinfo"
    mounts.write_text(MOUNTS)
    assert place.find("/tmpfile", mounts)["source"] == "/dev/sda1"
    assert place.find("/tmp/x", mounts)["filesystem"] == "xfs"
    assert "another machine" in place.find("/tmp/a b/c", mounts)["note"]
    assert place.find("/", tmp_path / "none")["filesystem"] == "unknown"
    mounts.write_text(MOUNTS.replace("xfs", "ramfs"))
    found = place.find("/tmp", mounts)
    assert found["device"] is False
    assert "no device" in found["note"]


# -- the document ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    directory = tmp_path_factory.mktemp("place")
    shares = []
    document = measure(
        str(directory), size=SIZE, repeats=2, progress=lambda done, what: shares.append(done)
    )
    assert os.listdir(directory) == []
    assert shares == sorted(shares)
    return document


def test_document(results):
    assert set(results) == {
        *("noria", "python", "kernel", "machine", "date", "quick", "command"),
        *("size", "page", "repeats", "place", "counted", "counted_reason", "engines", "rows"),
    }
    assert json.loads(json.dumps(results)) == results
    assert results["command"] == f"noria compare files --size {SIZE} --repeats 2"
    assert [engine["name"] for engine in results["engines"]] == ["ring", "threads"]
    for engine in results["engines"]:
        assert set(engine) == {"name", "available", "reason", "idle_us"}
        assert engine["available"] is (engine["name"] in ENGINES)
        assert bool(engine["reason"]) is not engine["available"]
    places = ("buffer", "cached", "dirty", "writeback", "device")
    for row in results["rows"]:
        assert set(row) == {
            *("engine", "step", "us", "waited", "stall_us", "work_us", "note"),
            *places,
        }
    found = [(row["engine"], row["step"]) for row in results["rows"]]
    assert len(found) == len(set(found))
    assert {engine for engine, _ in found} == set(ENGINES)


def test_a_refused_ring_is_reported(tmp_path, monkeypatch):
    """The ring's child process reports why, and threads are still measured."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(
        "import noria._core.files.file_ring as file_ring\n"
        "class FileRing:\n"
        "    def __init__(self, loop):\n"
        "        raise PermissionError(1, 'Operation not permitted')\n"
        "file_ring.FileRing = FileRing\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{site}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    document = measure(str(tmp_path), size=100, repeats=1)
    ring, threads = document["engines"]
    assert (ring["available"], ring["reason"]) == (False, "Operation not permitted")
    assert threads["available"]
    assert {row["engine"] for row in document["rows"]} == {"threads"}
    assert "ring is not available here: Operation not permitted." in figure.notes(document)


# -- what is shown ---------------------------------------------------------------------------------


def printed(document, width=100):
    console = Console(file=io.StringIO(), width=width)
    terminal.print_all(document, console)
    return console.file.getvalue()


def made(**changes):
    """Return a document of one engine without measuring."""
    base = {"engine": "threads", "waited": "threads", "us": 1500.0, "stall_us": 20.0}
    base |= {"work_us": 10.0, "writeback": 0, "note": ""}
    rows = [
        base | {"step": "write", "buffer": 8192, "cached": 0, "dirty": 0, "device": 0},
        base | {"step": "flush", "buffer": 0, "cached": 8192, "dirty": 4096, "device": 4096},
        base | {"step": "fsync", "buffer": 0, "cached": 8192, "dirty": 0, "device": 8192},
    ]
    engines = [{"name": "threads", "available": True, "reason": "", "idle_us": 5.0}]
    document = {"size": 8192, "counted": "cachestat", "engines": engines, "rows": rows}
    return document | {"place": {"directory": "/x", "device": True}, "repeats": 3} | changes


@pytest.mark.parametrize("width", [40, 60, 80, 100, 200])
def test_terminal(results, width):
    out = printed(results, width)
    assert max(map(len, out.splitlines())) <= width
    for step in {row["step"] for row in results["rows"]}:
        assert step.split()[0] in out
    assert f"{results['counted']}(2)" in out


@pytest.mark.parametrize("width", range(40, 121, 10))
def test_only_columns_that_are_there_are_explained(width):
    document = made()
    document["rows"] += [row | {"engine": "ring"} for row in document["rows"]]
    out = printed(document, width)
    head = next(line for line in out.splitlines() if line.startswith("step "))
    said = " ".join(out.split())
    for column, about in (
        ("loop blocked", figure.BLOCKED_NOTE),
        ("loop worked", figure.WORKED_NOTE),
    ):
        assert (column in head) is (f"{column}: {about}" in said)
    assert (
        f"loop blocked: {figure.BLOCKED_NOTE}; loop worked: {figure.WORKED_NOTE}."
        in page.render(document)
    )


def test_dirty_and_clean_are_distinguished():
    out = printed(made(), 120)
    assert "4.0 KiB dirty, 4.0 KiB clean" in out
    assert re.search("▓+░+", out)
    stage = figure.stages(made())[1]
    assert stage.stations[1].parts == [("dirty", 0.5), ("clean", 0.5)]
    assert stage.stations[2].parts == [("device", 0.5)]


def test_mincore_reports_less():
    document = made(counted="mincore", counted_reason="cachestat(2) is refused (EPERM)")
    for row in document["rows"]:
        row |= {"dirty": None, "writeback": None}
    document["rows"][1]["device"] = None
    out = printed(document)
    assert "EPERM" in out
    assert "not known" in out
    assert "dirty," not in out
    assert "?" in out


def test_memory_has_no_device():
    document = made(place={"directory": "/x", "device": False, "note": place.NO_DEVICE})
    out = printed(document)
    assert "no device" in out
    assert "no device" in out
    assert "on to the device" not in out


def test_engines_that_saw_the_same_share_a_picture():
    document = made()
    document["rows"] += [row | {"engine": "ring"} for row in document["rows"]]
    document["rows"][-1]["dirty"] = 4096
    stages = figure.stages(document)
    assert [stage.step for stage in stages] == ["write", "flush", "fsync", "fsync"]
    assert stages[0].engines == ["threads", "ring"]
    assert "fsync (ring)" in printed(document)


@pytest.mark.parametrize("document", [{}, {"rows": None}, made(rows=[]), made(engines=None)])
def test_holes_are_no_error(document):
    printed(document)
    page.render(document)


def test_page_holds_the_figures(results):
    text = page.render(results)
    data = re.search(r'id="results">(.*?)</script>', text, re.DOTALL)
    assert data
    assert json.loads(data[1]) == results
    for stage in figure.stages(results):
        assert f"<h3>{stage.step}</h3>" in text
        assert stage.stations[0].text in text
        for time_ in stage.times:
            assert figure.duration(time_.us) in text
    assert not re.search(r"(src|href)=\"(?!data:)", text)
    assert "https:" not in text


def test_hostile_names_stay_text():
    document = made(place={"directory": "/x", "source": "</script><b>", "note": "<img src=x>"})
    text = page.render(document)
    assert "<img" not in text
    assert "</script><b>" not in text


@pytest.mark.skipif(not PROGRAM, reason="needs Chromium to open the page in: none is installed")
def test_page_in_a_browser(results, tmp_path):
    """The page fits narrow and wide screens; its theme follows the system or the button."""
    page.write(results, tmp_path / "page.html")
    url = (tmp_path / "page.html").as_uri()
    ground = "getComputedStyle(document.body).backgroundColor"
    with Browser(tmp_path / "profile") as browser:
        browser.renew()
        seen = set()
        for width, dark in ((360, False), (1600, True)):
            browser.show(url, width=width, dark=dark)
            root = "document.documentElement"
            assert browser.ask(f"{root}.scrollWidth <= {root}.clientWidth")
            wide = "[...document.querySelectorAll('.bar')].every(bar => bar.clientWidth > 60)"
            assert browser.ask(wide)
            seen.add(browser.ask(ground))
        browser.click("#theme")
        assert browser.ask(ground) in seen
        assert browser.ask("document.documentElement.dataset.theme") == "light"
        assert len(seen) == 2
        assert browser.errors == []


# -- the command -----------------------------------------------------------------------------------


def test_command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(["compare", "files", "--size", "64K", "--repeats", "1", "--json", "all.json"]) == 0
    captured = capsys.readouterr()
    assert "process buffer" in captured.out
    assert "The figure is in compare-files.html" in captured.err
    assert json.loads((tmp_path / "all.json").read_text())["size"] == 65536
    assert sorted(os.listdir()) == ["all.json", "compare-files.html"]


def test_json_on_standard_output_is_nothing_but_json(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    arguments = ["--size", "1", "--repeats", "1", "--json", "-", "--output", "a.html"]
    assert run(["compare", "files", *arguments]) == 0
    assert json.loads(capsys.readouterr().out)["size"] == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["files", "--size", "0"], "less than one byte"),
        (["files", "--size", "2GiB"], "the maximum is 1 GiB"),
        (["files", "--size", "much"], "not a size"),
        (["files", "--repeats", "0"], "not in the range"),
        (["files", "--dir", "missing"], "does not exist"),
        (["files", "--dir", "file"], "is a file"),
        (["files", "--json", "missing/a.json"], "no such directory"),
        (["files", "--output", "missing/a.html"], "no such directory"),
        (["files", "more"], "unexpected extra argument"),
        (["--quick", "files"], "'files' must come before its options"),
        (["--quick", "loops"], "'loops' must come before its options"),
        (["file"], "'file' is not one of 'files', 'loops'"),
    ],
)
def test_wrong_use(arguments, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    assert run(["compare", *arguments]) == 2
    assert said in " ".join(capsys.readouterr().err.split())
    assert os.listdir() == ["file"]


def test_both_helps_name_the_other(capsys):
    assert run(["compare", "--help"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "'noria compare loops --help', and 'noria compare files --help'" in shown
    assert run(["compare", "files", "--help"]) == 0
    assert "Usage: noria compare files [OPTIONS]" in capsys.readouterr().out


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere: needs another user")
def test_a_directory_that_may_not_be_written(tmp_path, capsys):
    tmp_path.chmod(0o500)
    assert run(["compare", "files", "--dir", str(tmp_path), "--output", "/dev/null"]) == 2
    assert "not writable" in capsys.readouterr().err


def test_lack_of_space_is_reported_before_the_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda path: _Full())
    assert run(["compare", "files", "--quick"]) == 1
    errors = capsys.readouterr().err
    assert "3.0 MiB needed, 1.0 MiB free" in errors
    assert "--dir" in errors


class _Full:
    total, free = 2**40, 2**20


def test_lack_of_space_during_the_run_is_reported(tmp_path):
    """A limit of the file size (RLIMIT_FSIZE) simulates a full disk."""
    limited = ["sh", "-c", 'ulimit -f 200; exec "$@"', "sh"]
    done = subprocess.run(
        [*limited, *COMMAND, "--size", "1M", "--repeats", "1"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert done.returncode == 1
    assert "noria: cannot measure in .: File too large" in done.stderr
    assert "Traceback" not in done.stderr
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_behind(number, tmp_path):
    with subprocess.Popen(
        [*COMMAND, "--repeats", "1000", "--size", "64K"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as process:
        until = time.monotonic() + 30
        while not [name for _, _, names in os.walk(tmp_path) for name in names]:
            assert time.monotonic() < until
            time.sleep(0.01)
        process.send_signal(number)
        assert process.wait(30) == (130 if number == signal.SIGINT else -number)
    # Child processes exit when their parent has; the last one removes the files.
    while os.listdir(tmp_path):
        assert time.monotonic() < until
        time.sleep(0.01)
