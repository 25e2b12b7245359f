"""``noria work``: what it prints, how it stops, workers that die, and wrong targets."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import urllib.request

import pytest

pytest.importorskip("click")

import noria
from noria.cli.main import run
from noria.cli.work.reload import source_files
from noria.cli.work.totals import HandlerTotals, WorkTotals
from support import brokers
from support.running import children, start_python

LIMIT = 30.0  # seconds to wait for any output

# The program emits events when its bus has started: a handler "program" reads them from EMIT.
APP = """
import asyncio, json, os, time
import noria
from noria.bus.brokers.memory import MemoryBroker

if os.environ.get("SHARED"):
    MemoryBroker.durable = True  # several workers, each with a broker of its own

bus = noria.Bus("memory:")
other = noria.Bus("memory:")
number = 3

def function(): pass

@bus.on("job.done", group="jobs", retries=1, backoff=0.01)
async def job(event):
    what = event.data["do"]
    if what == "fail":
        raise ValueError("no such job")
    if what == "wait":
        print("waiting", flush=True)
        await asyncio.sleep(event.data["seconds"])
    while what == "ignore":
        try:
            print("waiting", flush=True)
            await asyncio.sleep(600)
        except asyncio.CancelledError:
            pass
    if what == "die":
        os._exit(7)

@bus.on("report.made", concurrency=5)
def report(event):
    print("reporting", flush=True)
    time.sleep(event.data["seconds"])

start = bus.start
started = False

async def start_and_emit():
    global started
    await start()
    if not started:
        started = True
        asyncio.get_running_loop().create_task(emit())

async def emit():
    await asyncio.sleep(0)
    for type, data in json.loads(os.environ.get("EMIT", "[]")):
        await bus.emit(type, **data)

bus.start = start_and_emit
"""


@pytest.fixture
def app(tmp_path, monkeypatch):
    """A directory with modules of the user's own, as the current one."""
    (tmp_path / "work_app.py").write_text(APP)
    (tmp_path / "work_raises.py").write_text("1 / 0\n")
    (tmp_path / "work_url.py").write_text("import noria\nbus = noria.Bus('memory:?limt=1')\n")
    (tmp_path / "work_none.py").write_text("")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("work_")]:
        del sys.modules[name]


class Work:
    """A ``noria work`` in a process of its own."""

    def __init__(self, app, *arguments, emit=(), **more):
        more = {"EMIT": json.dumps(list(emit)), "COLUMNS": "100", **more}
        self.process = start_python("-m", "noria", "work", *arguments, cwd=app, **more)
        self.lines = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.communicate()

    def until(self, text):
        """Return the first line that contains a text."""
        for line in self.process.stdout:
            self.lines.append(line)
            if text in line:
                return line
        raise AssertionError(f"{text!r} is not in {self.lines}: {self.process.stderr.read()}")

    def send(self, number):
        self.process.send_signal(number)

    def stop(self, number):
        """Send a signal; return (status, output, errors)."""
        self.send(number)
        return self.end()

    def end(self):
        out, err = self.process.communicate(timeout=LIMIT)
        return self.process.returncode, out, err


FAIL = ("job.done", {"do": "fail"})
HANDLE = ("job.done", {"do": "nothing"})


def test_the_table_and_the_summary(app):
    events = [HANDLE, HANDLE, FAIL, ("report.made", {"seconds": 0})]
    with Work(app, "work_app:bus", emit=events) as work:
        work.until("reporting")
        shown = "".join(work.lines)
        assert shown.startswith("work_app:bus on memory:, 1 worker, model ")
        assert "  job  " in shown
        assert "each worker" in shown
        assert "report (thread)" in shown
        assert "press Ctrl-C to stop" in shown
        # The traceback of a dead letter; a retry has one line.
        assert any(line == "ValueError: no such job\n" for line in work.process.stderr)
        status, out, _ = work.stop(signal.SIGINT)
    assert status == 0
    assert "\nhandled 3 events in " in out
    assert "; 1 retried; 1 dead; 4 emitted\n" in out
    assert "'noria events dead memory:' lists the dead letters" in out


def test_json_lines(app):
    events = [HANDLE, FAIL]
    with Work(app, "work_app:bus", "--json", "-v", "--concurrency", "7", emit=events) as work:
        started = json.loads(work.until('"started"'))
        assert started["pid"] == work.process.pid
        assert [each["concurrency"] for each in started["subscriptions"]] == [7, 5]
        assert [each["group"] for each in started["subscriptions"]] == ["jobs", None]
        assert json.loads(work.until('"handled"'))["attempt"] == 1
        failed = json.loads(work.until('"attempt": 2'))
        assert failed["event"] == "failed"
        assert failed["error"] == "ValueError: no such job"
        status, out, _ = work.stop(signal.SIGTERM)
    assert status == 0
    summary = json.loads(out.splitlines()[-1])
    assert summary["event"] == "summary"
    counts = {name: summary[name] for name in ("handled", "failed", "retried", "dead", "published")}
    assert counts == {"handled": 1, "failed": 2, "retried": 1, "dead": 1, "published": 2}
    assert summary["handlers"][0]["p99"] > 0
    assert summary["rate"] > 0


def test_handlers_may_end_after_a_signal(app):
    events = [("job.done", {"do": "wait", "seconds": 0.5})]
    with Work(app, "work_app:bus", emit=events) as work:
        work.until("waiting")
        work.send(signal.SIGINT)
        work.until("stopping: 1 event in flight has 30 s; Ctrl-C again stops at once")
        status, out, _ = work.end()
    assert status == 0
    assert "handled 1 event in " in out


def test_a_second_interrupt_cancels_the_handlers(app):
    events = [("job.done", {"do": "wait", "seconds": 600})]
    with Work(app, "work_app:bus", emit=events) as work:
        work.until("waiting")
        work.send(signal.SIGINT)
        work.until("stopping")
        status, out, _ = work.stop(signal.SIGINT)
    assert status == 130
    assert "handled 0 events" in out
    assert "; 1 returned" in out


def test_a_thread_that_does_not_end_is_abandoned_after_the_grace(app):
    events = [("report.made", {"seconds": 600})]
    with Work(app, "work_app:bus", "--grace", "0.1", emit=events) as work:
        work.until("reporting")
        status, out, err = work.stop(signal.SIGTERM)
    assert status == 0
    assert "handled 0 events" in out
    assert "abandoned" in err


@pytest.mark.parametrize("options", [(), ("--workers", "2")], ids=["alone", "supervised"])
def test_a_handler_that_ignores_its_cancellation_is_abandoned(app, options):
    events = [("job.done", {"do": "ignore"})]
    with Work(app, "work_app:bus", "--grace", "0.1", *options, SHARED="1", emit=events) as work:
        work.until("waiting")
        status, out, err = work.stop(signal.SIGTERM)
    assert status == 1
    assert "handled 0 events" in out
    assert "tasks ignore their cancellation and are abandoned (1): job" in err


def test_workers_add_up(app):
    events = [HANDLE, HANDLE]
    with Work(app, "work_app:bus", "--workers", "2", "-v", SHARED="1", emit=events) as work:
        assert work.until("2 workers")
        for _ in range(4):
            work.until("handled  job.done")
        status, out, _ = work.stop(signal.SIGINT)
    assert status == 0
    assert "stopping: handlers have 30 s" in out
    assert "handled 4 events" in out


def test_the_totals_of_many_handlers_are_added(app):
    """They are more bytes than a pipe holds."""
    source = app / "work_app.py"
    more = "for number in range(400):\n    bus.on(f'type{number}', job, group='groups')\n"
    source.write_text(source.read_text() + more)
    with Work(app, "work_app:bus", "--workers", "2", "--json", SHARED="1") as work:
        work.until('"started"')
        work.send(signal.SIGTERM)
        status, out, err = work.end()
    assert (status, err) == (0, "")
    assert len(json.loads(out.splitlines()[-1])["handlers"]) == 402


def test_a_worker_that_dies_is_reported_and_replaced(app):
    with Work(app, "work_app:bus", "--workers", "2", "--json", SHARED="1") as work:
        started = json.loads(work.until('"started"'))
        os.kill(started["pid"], signal.SIGKILL)
        ended = json.loads(work.until('"worker_ended"'))
        assert ended == {"event": "worker_ended", "pid": started["pid"], "how": "SIGKILL"}
        status, out, _ = work.stop(signal.SIGTERM)
    assert status == 0
    assert json.loads(out.splitlines()[-1])["restarts"] == 1


def test_a_worker_that_dies_at_its_start(app):
    events = [("job.done", {"do": "die"})]
    source = app / "work_app.py"
    source.write_text(source.read_text() + "\nos._exit(9)\n")
    with Work(app, "work_app:bus", "--workers", "2", SHARED="1", emit=events) as work:
        status, out, err = work.end()
    assert (status, out) == (1, "")
    assert err == "noria: the first worker ended before it was ready (status 9)\n"


def test_reload(app):
    with Work(app, "work_app:bus", "--reload", "--json") as work:
        work.until('"started"')
        (app / "work_app.py").write_text("syntax error(\n")
        assert json.loads(work.until('"reloading"'))["changed"] == ["work_app.py"]
        work.until("waiting_for_change")
        (app / "work_app.py").write_text(APP)
        work.until('"started"')
        status, out, err = work.stop(signal.SIGINT)
    assert status == 0
    assert "SyntaxError" in err
    assert json.loads(out.splitlines()[-1])["event"] == "summary"


def test_metrics_are_served_while_it_runs(app):
    pytest.importorskip("prometheus_client")
    with Work(app, "work_app:bus", "--metrics", "0", "--json", emit=[HANDLE]) as work:
        url = json.loads(work.until('"started"'))["metrics"]
        with urllib.request.urlopen(url, timeout=LIMIT) as response:
            text = response.read().decode()
        assert "noria_loop_turns_total" in text
        assert 'noria_bus_events_handled_total{broker="memory:",group="jobs"' in text
        assert work.stop(signal.SIGTERM)[0] == 0


REDIS_APP = """
import os, noria

bus = noria.Bus(os.environ["BROKER"], claim=1)

@bus.on("job.done", group="jobs")
async def job(event): pass
"""


@pytest.fixture
def redis_server(tmp_path):
    """A server that the test may stop and start."""
    with brokers.running("redis", tmp_path / "redis") as server:
        yield server


async def _emit(url, number):
    bus = noria.Bus(url)
    await asyncio.gather(*(bus.emit("job.done", n=n) for n in range(number)))
    await bus.close()


def test_a_worker_that_starts_without_the_broker_waits_for_it(app, redis_server):
    (app / "work_redis.py").write_text(REDIS_APP)
    arguments = ["work_redis", "--workers", "2", "--json", "-v"]
    with Work(app, *arguments, BROKER=redis_server.url) as work:
        started = json.loads(work.until('"started"'))
        assert started["broker"] == redis_server.url
        noria.run(_emit(redis_server.url, 20))
        ids = {json.loads(work.until('"handled"'))["id"] for _ in range(20)}
        assert len(ids) == 20
        redis_server.stop()
        os.kill(started["pid"], signal.SIGKILL)
        work.until('"worker_ended"')
        redis_server.start()
        noria.run(_emit(redis_server.url, 5))
        for _ in range(5):
            work.until('"handled"')
        status, out, _ = work.stop(signal.SIGTERM)
    assert status == 0
    assert json.loads(out.splitlines()[-1])["restarts"] == 1


def test_workers_that_started_without_the_broker_work_when_it_is_back(app, redis_server):
    source = """
start = bus.start

async def report_and_start():
    print("starting", os.getpid(), flush=True)
    await start()

bus.start = report_and_start
"""
    (app / "work_redis.py").write_text(REDIS_APP + source)
    arguments = ["work_redis", "--workers", "2", "--json", "-v"]
    with Work(app, *arguments, BROKER=redis_server.url) as work:
        first = set()
        while len(first) < 2:
            first.add(work.until("starting").split()[1])
        redis_server.stop()
        for pid in first:
            os.kill(int(pid), signal.SIGKILL)
        tries = {}
        while len(tries) < 2 or min(tries.values()) < 3:
            pid = work.until("starting").split()[1]
            if pid not in first:
                tries[pid] = tries.get(pid, 0) + 1
        redis_server.start()
        noria.run(_emit(redis_server.url, 5))
        for _ in range(5):
            work.until('"handled"')
        assert {str(pid) for pid in children(work.process.pid)} == set(tries)
        status, out, _ = work.stop(signal.SIGTERM)
    assert status == 0
    assert json.loads(out.splitlines()[-1])["restarts"] == 2


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["work_app"], 2, "name the bus, as work_app:bus. Its buses: bus, other."),
        (["work_none"], 2, "work_none has no noria.Bus."),
        (["work_app:"], 2, "'work_app:' is not MODULE:BUS"),
        (["work_nothing:bus"], 2, "there is no module 'work_nothing' in"),
        (["work_app.py:bus"], 2, "name the module, not its file: work_app"),
        (["work_app:bux"], 2, "module 'work_app' has no 'bux'. Did you mean bus?"),
        (["work_app:number"], 2, "work_app:number is not a noria.Bus but a int. Its buses:"),
        (["work_app:function"], 2, "work_app:function is not a noria.Bus but a function."),
        (["work_app:noria.Bus"], 2, "is not a noria.Bus but a class"),
        (["work_app:other"], 2, "work_app:other has no handlers: write @other.on(TYPE)"),
        (["work_app:bus", "--workers", "2"], 2, "memory: is a broker inside one process"),
        (["work_app:bus", "--workers", "2", "--reload"], 2, "--reload is for one worker"),
        (["work_app:bus", "--workers", "0"], 2, "--workers"),
        (["work_app:bus", "--model", "epol"], 2, "Did you mean epoll?"),
        (["work_app:bus", "--model", "blocking"], 1, "blocking"),
        (["work_raises:bus"], 1, "ZeroDivisionError"),
        (["work_url:bus"], 1, "cannot import work_url:"),
    ],
)
def test_wrong_use(app, capfd, arguments, status, said):
    assert run(["work", *arguments]) == status
    out, err = capfd.readouterr()
    assert out == ""
    assert said in err


def test_totals_of_workers():
    first = WorkTotals("redis://a", 1, 0, [HandlerTotals("a", "g", "h", handled=2, seconds=0.5)])
    second = WorkTotals("redis://a", 2, 1, [HandlerTotals("a", "g", "h", handled=3)])
    second.handlers.append(HandlerTotals("b", None, "k", dead=4))
    total = WorkTotals()
    for each in (first, second):
        total.add(WorkTotals.decode(each.encode()))
    assert total.broker == "redis://a"
    assert (total.published, total.publish_failures) == (3, 1)
    assert [(each.type, each.handled, each.dead) for each in total.handlers] == [
        ("a", 5, 0),
        ("b", 0, 4),
    ]
    assert total.sum("handled") == 5
    assert total.handlers[0].seconds == 0.5


def test_reload_watches_source_files_only(tmp_path):
    for name in ("a.py", "pkg/b.py", "c.txt", ".git/d.py", "venv/lib/e.py", "__pycache__/f.py"):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("")
    (tmp_path / "venv/pyvenv.cfg").write_text("")
    found = {os.path.relpath(name, tmp_path) for name, _ in source_files(str(tmp_path))}
    assert found == {"a.py", "pkg/b.py"}
