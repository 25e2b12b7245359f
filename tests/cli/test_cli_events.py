"""``noria events``: what it prints and publishes, on a Redis server; and wrong use."""

from __future__ import annotations

import asyncio
import json
import signal

import pytest

pytest.importorskip("click")

import noria
from noria.bus.dead_letters import encode_letter
from noria.cli.events.letters import BATCH, change_in_batches
from noria.cli.main import run
from support import brokers
from support.running import start_python

LIMIT = 30.0


# Session-scoped, and so set up before the check that a test leaves no child process behind.
@pytest.fixture(scope="session")
def server(tmp_path_factory):
    with brokers.running("redis", tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def url(server, request):
    """The URL of a broker without events: with a prefix of its own."""
    return f"{server.url}?prefix={request.node.name.replace('[', '-').replace(']', '')}"


@pytest.fixture
def events(capfd):
    """Run ``noria events``; return (status, output, errors)."""

    def call(*arguments):
        status = run(["events", *arguments])
        return status, *capfd.readouterr()

    return call


async def _fail(url, number):
    """Emit events whose handler fails; return when they are dead letters."""
    bus = noria.Bus(url)

    @bus.on("job.done", group="jobs", retries=0)
    async def job(event):
        raise ValueError(f"no job {event.data['n']}")

    async with bus, asyncio.timeout(LIMIT):
        for n in range(number):
            await bus.emit("job.done", n=n)
        while len(found := await bus.dead()) < number:
            await asyncio.sleep(0.01)
    return [letter.id for letter in found]


async def _handle(url, number):
    """Return the data of the events that the group gets."""
    bus = noria.Bus(url)
    got = []
    enough = asyncio.Event()

    @bus.on("job.done", group="jobs")
    async def job(event):
        got.append(event.data)
        if len(got) == number:
            enough.set()

    async with bus, asyncio.timeout(LIMIT):
        await enough.wait()
    return got


def test_emit_and_lag(url, events):
    status, out, err = events("emit", url, "upload.finished", "name=007", "size:=3", "--key", "k")
    assert (status, err) == (0, "")
    assert out.startswith("emitted upload.finished, id ")
    status, out, _ = events("emit", url, "upload.finished", "--data", "[1]", "--id", "x", "--json")
    event = json.loads(out)
    assert (event["id"], event["data"], event["type"]) == ("x", [1], "upload.finished")
    assert event["source"].endswith("/noria")
    status, out, _ = events("lag", url)
    assert status == 0
    assert out.splitlines()[-1].split() == ["upload.finished", "no", "group", "2", "0", "0"]
    status, out, _ = events("lag", url, "--json")
    assert json.loads(out) == {
        "type": "upload.finished",
        "group": None,
        "waiting": 2,
        "in_flight": 0,
        "delayed": 0,
    }


@pytest.mark.parametrize("key", ["s:a.b", "types"])
def test_emit_says_that_the_broker_refuses_an_event(server, url, events, key):
    redis = pytest.importorskip("redis")
    prefix = url.partition("prefix=")[2]
    with redis.Redis(port=server.port) as operator:
        operator.set(f"{prefix}:{key}", "a string")
    status, out, err = events("emit", url, "a.b", "n:=1")
    assert (status, out) == (1, "")
    assert err.startswith(f"noria: {url} refused a command: WRONGTYPE ")
    assert len(err.splitlines()) == 1, err


def test_lag_has_a_status_for_scripts(url, events):
    async def subscribe():
        bus = noria.Bus(url)
        bus.on("job.done", print, group="jobs")
        async with bus:
            pass

    asyncio.run(subscribe())
    for n in range(3):
        events("emit", url, "job.done", f"n:={n}")
    assert events("lag", url, "--max", "3")[0] == 0
    status, out, err = events("lag", url, "--max", "2", "--group", "jo*")
    assert status == 1
    assert err == "noria: more than 2 events wait: job.done (jobs): 3\n"
    assert "jobs" in out
    status, _, err = events("lag", url, "--group", "other")
    assert (status, err) == (
        1,
        "noria: the broker has no such type and group\n       it has: job.done (jobs)\n",
    )


def test_lag_of_an_empty_broker(url, events):
    assert events("lag", url) == (0, "", "The broker knows no types of events and no groups.\n")


def test_tail(url, events):
    tail = start_python("-m", "noria", "events", "tail", url, "--type", "up*", "--json")
    try:
        assert "from now on" in tail.stderr.readline()
        assert events("emit", url, "other.type")[0] == 0
        assert events("emit", url, "upload.begun", "name=a")[0] == 0
        first = json.loads(tail.stdout.readline())
        assert first["type"] == "upload.begun"
        tail.send_signal(signal.SIGINT)
        _, err = tail.communicate(timeout=LIMIT)
        assert tail.returncode == 130
        assert err.strip() == ""  # click ends the line of ^C
    finally:
        tail.kill()
        tail.communicate()


def test_tail_shows_what_other_programs_publish_on_one_line(server, url, events):
    redis = pytest.importorskip("redis")
    prefix = url.partition("prefix=")[2]
    event = {"specversion": "1.0", "id": "1", "source": "/x", "type": "a\x1b[2Jb"}
    event |= {"partitionkey": "k\x1b[31m\n", "data": "\u009b2J"}
    commands = [("tail", url, "-n", "1", *more) for more in ([], ["--json"], ["-v"])]
    tails = [start_python("-m", "noria", "events", *command) for command in commands]
    try:
        with redis.Redis(port=server.port) as operator:
            operator.sadd(f"{prefix}:types", "a.b")
        for tail in tails:
            assert "from now on" in tail.stderr.readline()
        with redis.Redis(port=server.port) as operator:
            operator.xadd(f"{prefix}:new", {"t": "a.b", "k": "0"})
            operator.xadd(f"{prefix}:s:a.b", {"e": json.dumps(event, indent=2)})
        plain, lines, verbose = (tail.communicate(timeout=LIMIT)[0] for tail in tails)
        assert plain.endswith('  a\\x1b[2Jb  key=k\\x1b[31m\\n  "\\x9b2J"\n'), plain
        assert json.loads(lines) == event
        assert lines.count("\n") == 1
        assert not set(plain + verbose) & {"\x1b", "\x9b"}
    finally:
        for tail in tails:
            tail.kill()
            tail.communicate()


def test_letters_of_other_programs_are_reported(server, url, events, caplog):
    redis = pytest.importorskip("redis")
    prefix = url.partition("prefix=")[2]
    (id,) = asyncio.run(_bury(url, [b'{"x":1}'], "\x1b[2J"))
    with redis.Redis(port=server.port) as operator:
        [[_, fields]] = operator.xrange(f"{prefix}:dead")
        letter = json.loads(fields[b"e"])
        for name, value in [("time", 5), ("group", []), ("attempts", "x"), ("error", None)]:
            operator.xadd(f"{prefix}:dead", {"e": json.dumps({**letter, name: value})})
    status, out, _ = events("dead", url)
    assert status == 0
    assert id in out
    assert "\x1b" not in out
    assert caplog.text.count(" is none of noria's: ") == 4


@pytest.mark.parametrize("number", ["abc", "0", "9999"])
def test_a_wrong_number_of_partitions_in_the_server_is_reported(server, url, events, number):
    redis = pytest.importorskip("redis")
    prefix = url.partition("prefix=")[2]
    with redis.Redis(port=server.port) as operator:
        operator.hset(f"{prefix}:settings", "partitions", number)
    status, out, err = events("lag", url)
    assert (status, out) == (1, "")
    assert err == (
        f"noria: {url}: {prefix}:settings in the server has partitions={number!r}, which is no "
        f"number from 1 to 1024\n       correct it: HSET {prefix}:settings partitions N\n"
    )


def test_dead_letters_and_replay(url, events):
    ids = asyncio.run(_fail(url, 3))
    status, out, _ = events("dead", url)
    assert status == 0
    assert out.count("job.done (jobs), 1 attempt\n    ValueError: no job ") == 3
    status, out, err = events("dead", url, "--limit", "2", "--json")
    assert [json.loads(line)["id"] for line in out.splitlines()] == ids[:2]
    assert err == "There are more than 2: --limit N shows them.\n"
    assert "more than 2" not in events("dead", url, "--limit", "3")[2]
    status, out, _ = events("dead", url, ids[1])
    assert "Traceback" in out
    assert '"n": 1' in out
    assert events("dead", url, "--group", "other")[1:] == ("", "There are no dead letters.\n")

    status, out, _ = events("replay", url, "--all", "--dry-run")
    assert out.endswith("would replay 3 events: 3 job.done (jobs)\n")
    assert len(events("dead", url, "--json")[1].splitlines()) == 3
    status, out, err = events("replay", url, ids[1], "999-9", "--json")
    assert status == 1
    assert "there is no dead letter 999-9" in err
    replayed = json.loads(out)
    assert (replayed["id"], replayed["replayed"]) == (ids[1], True)
    status, out, _ = events("replay", url, "--group", "jobs")
    assert (status, out) == (0, "replayed 2 events: 2 job.done (jobs)\n")
    assert events("replay", url, "--all")[2] == "Nothing to replay.\n"
    assert sorted(data["n"] for data in asyncio.run(_handle(url, 3))) == [0, 1, 2]


async def _bury(url, bodies, type):
    """Store dead letters; return their ids."""
    bus = noria.Bus(url)
    await bus.connect()
    about = {"type": type, "group": "jobs", "attempts": 1, "worker": "w"}
    letters = [encode_letter(body, error=ValueError("x"), **about) for body in bodies]
    await bus.broker.bury(letters)
    stored = [letter.id for letter in await bus.dead()]
    await bus.close()
    return stored


def test_an_event_that_failed_again_is_replayed_once(url, events):
    one, other = (noria.Event("job.done", {"n": n}).encode() for n in range(2))
    ids = asyncio.run(_bury(url, [one, other, one], "job.done"))
    assert events("replay", url, "--all")[1] == "replayed 2 events: 2 job.done (jobs)\n"
    assert json.loads(events("dead", url, "--json")[1])["id"] == ids[2]


def test_what_is_no_event_is_kept_and_forgotten(url, events):
    (id,) = asyncio.run(_bury(url, [b"{"], None))
    status, _, err = events("replay", url, "--all")
    assert status == 1
    assert f"1 letter cannot be replayed, since it is no event that failed: {id}\n" in err
    assert "noria events forget" in err
    assert events("forget", url, id, "--dry-run")[1].endswith("would remove 1 letter\n")
    assert events("forget", url, id)[1] == "removed 1 letter\n"
    assert events("dead", url)[2] == "There are no dead letters.\n"


def test_a_batch_that_fails_is_not_repeated():
    sizes = []

    async def letters():
        for number in range(2 * BATCH):
            yield number

    async def change(batch):
        sizes.append(len(batch))
        if len(sizes) == 2:
            raise noria.errors.EmitTimeout("no confirmation")

    with pytest.raises(noria.errors.EmitTimeout):
        asyncio.run(change_in_batches(letters(), change))
    assert sizes == [BATCH, BATCH]


NOWHERE = "redis://127.0.0.1:1"


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["lag", "memory:"], 2, "memory: does not leave this process"),
        (["lag", "foo"], 2, "'foo' is no broker's URL"),
        (["lag", "reds://x"], 2, "did you mean redis?\n"),
        (["emit", NOWHERE, "bad..type"], 2, "'bad..type' is no type of an event"),
        (["emit", NOWHERE, "a.b", "name"], 2, "'name' is not NAME=TEXT or NAME:=JSON"),
        (["emit", NOWHERE, "a.b", "n:=x"], 2, "'n:=x' is not JSON"),
        (["emit", NOWHERE, "a.b", "n:=NaN"], 2, "'n:=NaN' is not JSON"),
        (["emit", NOWHERE, "a.b", "--delay", "inf"], 2, "--delay must be below 1e+09 seconds"),
        (["emit", NOWHERE, "a.b", "--data", "{x"], 2, "--data is not JSON"),
        (["emit", NOWHERE, "a.b", "--data", "@nothing"], 1, "nothing: no such file"),
        (["emit", NOWHERE, "a.b", "n=1", "--data", "1"], 2, "cannot be combined"),
        (["emit", NOWHERE, "a.b", "--content-type", "a/b"], 2, "--content-type is for --data"),
        (["emit", NOWHERE, "a.b", "--key", ""], 2, "key= must be a str that is not empty"),
        (["replay", NOWHERE], 2, "choose letters"),
        (["replay", NOWHERE, "--all", "1-0"], 2, "--all cannot be combined"),
        (["forget", NOWHERE], 2, "choose letters"),
        (["tail", NOWHERE, "--count", "0"], 2, "--count"),
    ],
)
def test_wrong_use(events, arguments, status, said):
    pytest.importorskip("redis")
    got, out, err = events(*arguments)
    assert (got, out) == (status, "")
    assert said in err


@pytest.mark.parametrize("command", [["lag"], ["emit", "a.b"], ["dead"], ["replay", "--all"]])
def test_without_a_broker(events, command):
    pytest.importorskip("redis")
    url = f"redis://127.0.0.1:{brokers.free_port()}"
    assert events(command[0], url, *command[1:]) == (
        1,
        "",
        f"noria: no broker at {url}: connection refused\n"
        "       start one with: redis-server --appendonly yes\n",
    )
