"""A wall clock that is set while the file server runs, and files of any time."""

from __future__ import annotations

import math
import os
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pytest

from support.fileservice import ask, serving

pytest.importorskip("httptools")

from noria.fileserver import file_age
from noria.fileserver.file_age import AgeLimits
from noria.fileserver.root import Root
from noria.fileserver.service import FileService
from noria.fileserver.stale_files import STALE_AFTER
from noria.fileserver.tus.upload_store import DIRECTORY, MAX_AGE, UploadInfo, UploadStore
from noria.http.head import DateField
from noria.http.messages import Headers, Request

NOW = 1_800_000_000.0
DAY = 24 * 3600.0
YEARS = 50 * 365 * DAY


class Times:
    """Replaces the module `time`: `passes` advances both clocks, `wall` can be set."""

    CLOCK_BOOTTIME = time.CLOCK_BOOTTIME

    def __init__(self) -> None:
        self.wall, self.boot = NOW, 1000.0

    def passes(self, seconds: float) -> None:
        self.wall += seconds
        self.boot += seconds

    def time(self) -> float:
        return self.wall

    def clock_gettime(self, _: int) -> float:
        return self.boot


@pytest.fixture
def times(monkeypatch: pytest.MonkeyPatch) -> Times:
    times = Times()
    monkeypatch.setattr(file_age, "time", times)
    return times


def old(limits: tuple[float, float], modified: float) -> bool:
    return not limits[0] <= modified <= limits[1]


def test_a_clock_that_is_not_set(times: Times) -> None:
    kept = AgeLimits(DAY)
    for _ in range(100):
        times.passes(900)
        assert kept.limits()[0] == pytest.approx(times.wall - DAY)
    times.passes(DAY * 30)  # no call for a long time
    assert kept.limits() == pytest.approx((times.wall - DAY, times.wall + DAY))


@pytest.mark.parametrize("step", [2 * DAY, YEARS])
def test_set_forward(times: Times, step: float) -> None:
    """A file that was new before the step is not old, and becomes old a day later."""
    kept = AgeLimits(DAY)
    times.passes(900)
    new, already = times.wall - 10, times.wall - DAY - 10
    times.wall += step
    assert not old(kept.limits(), new)
    assert old(kept.limits(), already)
    assert not old(kept.limits(), times.wall)
    for _ in range(100):
        times.passes(900)
        kept.limits()
    assert old(kept.limits(), new)
    assert not old(kept.limits(), times.wall - 10)


@pytest.mark.parametrize("step", [3 * DAY, YEARS])
def test_set_back(times: Times, step: float) -> None:
    """A file with a time in the future is kept for a day, and is old after that."""
    kept = AgeLimits(DAY)
    for _ in range(100):
        times.passes(900)
        kept.limits()
    new = times.wall - 10
    times.wall -= step
    assert not old(kept.limits(), new)
    assert not old(kept.limits(), times.wall)
    for _ in range(98):
        times.passes(900)
        kept.limits()
    assert old(kept.limits(), new)
    assert not old(kept.limits(), times.wall - 10)


def test_a_server_that_has_just_started_takes_nothing_for_the_future(times: Times) -> None:
    kept = AgeLimits(DAY)
    assert kept.limits()[1] == math.inf
    times.passes(DAY + 1)
    assert kept.limits()[1] == times.wall + DAY


def test_adjusting_is_no_step(times: Times) -> None:
    kept = AgeLimits(DAY)
    for _ in range(1000):
        times.passes(900)
        times.wall += 0.5
        assert kept.limits()[0] == pytest.approx(times.wall - DAY)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[UploadStore]:
    root = Root(tmp_path)
    store = UploadStore(root)
    yield store
    store.close()
    root.close()


def test_uploads_of_another_time(tmp_path: Path, store: UploadStore) -> None:
    now = time.time()
    place = tmp_path / DIRECTORY
    uploads = {}
    for name, at in {"past": now - MAX_AGE - 10, "now": now, "future": now + MAX_AGE + 10}.items():
        upload = uploads[name] = store.create(UploadInfo("/x", 5))
        (place / f"{upload}.data").write_bytes(b"123")
        for suffix in (".json", ".data"):
            os.utime(place / (upload + suffix), (at, at))
    assert store.expire(now - MAX_AGE, math.inf) == 3
    assert sorted(each.stem for each in place.glob("*.json")) == sorted(
        [uploads["now"], uploads["future"]]
    )
    assert store.expire(now - MAX_AGE, now + MAX_AGE) == 3
    assert [each.stem for each in place.glob("*.json")] == [uploads["now"]]


def test_an_upload_that_is_sent_to_is_left_alone_whatever_its_age(
    tmp_path: Path, store: UploadStore
) -> None:
    """Nor is its info, which may be in the middle of being rewritten."""
    upload = store.create(UploadInfo("/x", 5))
    new = tmp_path / DIRECTORY / f"{upload}.new"
    new.write_bytes(b"{}")
    with store.locked(upload):
        assert store.expire(math.inf, math.inf) == 0
        assert new.exists()
        assert store.info(upload).path == "/x"
    store.expire(math.inf, math.inf)
    assert os.listdir(tmp_path / DIRECTORY) == []


def test_parts_of_the_future_are_swept(tmp_path: Path) -> None:
    """The clock was set back since: by their times they would become stale in years."""
    for name, age in {"past": 2 * STALE_AFTER, "now": 0.0, "future": -2 * STALE_AFTER}.items():
        part = tmp_path / f".noria-{name}.part"
        part.touch()
        os.utime(part, (time.time() - age,) * 2)

    async def main(service: FileService) -> None:
        assert await service.files.remove_stale() == 2

    serving(main, tmp_path, uploads=True)
    assert os.listdir(tmp_path) == [".noria-now.part"]


def test_the_date_of_a_clock_that_is_set_back(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = DateField()
    for now, date in (
        (1_800_000_000, "Fri, 15 Jan 2027 08:00:00 GMT"),
        (0, "Thu, 01 Jan 1970 00:00:00 GMT"),
        (1_800_000_000, "Fri, 15 Jan 2027 08:00:00 GMT"),
    ):
        monkeypatch.setattr(time, "time", lambda now=now: now)
        assert clock.text() == date
        assert clock.encoded() == date.encode()


@pytest.mark.parametrize("at", [-(2**55), -(2**40), -1, 0, 2**34, 253402300800, 2**40, 2**55])
def test_a_file_of_any_time_is_served(at: int) -> None:
    """tmpfs stores times of 64 bits, which no HTTP date can express."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as name:
        file = Path(name) / "file"
        file.write_bytes(b"1")
        try:
            os.utime(file, (at, at))
        except OverflowError:
            pytest.skip("the file system has no such time")

        async def main(service: FileService) -> None:
            answer = await ask(service, "GET", "/file")
            assert (answer.status, answer.body) == (200, b"1")
            tag, date = answer.headers.get("etag"), answer.headers.get("last-modified")
            assert (await ask(service, "GET", "/file", if_none_match=tag)).status == 304
            assert (
                await ask(service, "GET", "/file", if_range=date, range="bytes=0-0")
            ).status in (
                200,
                206,
            )
            assert (await ask(service, "GET", "/", accept="text/html")).status == 200
            assert (await ask(service, "GET", "/", accept="application/json")).status == 200
            body = (await ask(service, "GET", "/", query={"archive": "tar"})).body
            with tarfile.open(fileobj=BytesIO(body)) as archive:
                assert len(archive.getnames()) == 2
            body = (await ask(service, "GET", "/", query={"archive": "zip"})).body
            with zipfile.ZipFile(BytesIO(body)) as packed:
                assert len(packed.namelist()) == 2
            request = Request("GET", "/file", Headers())
            quick = [service.fast_path(request) for _ in range(2)][-1]
            if quick is not None:  # the fast path has the same fields
                assert tag.encode() in quick[0]
                assert date.encode() in quick[0]
            assert (await ask(service, "PUT", "/file", b"2", if_match=tag)).status == 204

        serving(main, Path(name), uploads=True, disk_floor=0)
