"""The output of `noria compare`: sentences, terminal tables and the page.

`data/compare_sample.json` has the structure of a run, with invented values.
"""

import copy
import hashlib
import json
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("jinja2", reason="the page needs jinja2, part of noria[cli]")
pytest.importorskip("rich", reason="the tables need rich, part of noria[cli]")

from rich.console import Console

from noria.compare.report import page as report
from noria.compare.report import sentences, tables

SAMPLE = json.loads((Path(__file__).parents[1] / "data" / "compare_sample.json").read_text("utf-8"))
VENDOR = Path(report.__file__).parent / "vendor"
SECTIONS = tuple(sentences.FIGURES)


@pytest.fixture
def results() -> dict[str, Any]:
    return copy.deepcopy(SAMPLE)


def without(results: dict[str, Any], model: str) -> dict[str, Any]:
    """Return the same run on a machine that refuses a model."""
    for row in results["models"]:
        if row["name"] == model:
            row.update(available=False, reason="seccomp refuses io_uring_setup (EPERM)")
    for name in SECTIONS:
        rows = results[name]["rows"]
        results[name]["rows"] = [row for row in rows if row["model"] != model]
    return results


def holed(results: dict[str, Any]) -> dict[str, Any]:
    """Return the same run with every measured number null."""
    keep = {"connections", "served", "sample", "client", "idle"}
    for name in SECTIONS:
        for row in results[name]["rows"]:
            for key, value in row.items():
                if key not in keep and not isinstance(value, str):
                    row[key] = None
    return results


def printed(results: dict[str, Any], width: int) -> str:
    out = StringIO()
    tables.print_tables(results, Console(file=out, width=width))
    return out.getvalue()


# -- sentences -------------------------------------------------------------------------------------


def test_throughput_names_the_fastest(results):
    for row in results["throughput"]["rows"]:
        if row["model"] == "poll":
            row["messages_per_second"] = 400_000.0
    said = sentences.throughput(results)
    assert "With 1,000 connections poll is the fastest with 400,000 messages per second" in said
    assert said != sentences.throughput(SAMPLE)


def test_throughput_calls_equals_level(results):
    rows = [row for row in results["throughput"]["rows"] if row["model"] in ("epoll", "poll")]
    for row in rows:
        row["messages_per_second"] = 1000.0 if row["model"] == "epoll" else 990.0
    results["throughput"]["rows"] = rows
    said = sentences.throughput(results)
    assert "poll is equally fast" in said
    assert "No model that serves every client is slower than the fastest by 1.50 times" in said


def test_throughput_names_where_lines_diverge(results):
    rows = [
        {"model": name, "connections": n, "served": n, "messages_per_second": rate}
        for name, rates in {"epoll": (100.0, 100.0), "select": (98.0, 25.0)}.items()
        for n, rate in zip((1, 1000), rates, strict=True)
    ]
    results["throughput"]["rows"] = rows
    assert "select at 1,000 connections (25% of its messages)" in sentences.throughput(results)


def test_phases_follow_the_median_sample(results):
    def row(sample, handler):
        return {
            "model": "poll",
            "sample": sample,
            "asked": -2_000_000,
            "sent": 0,
            "arrived": 1000,
            "ready": 2000,
            "copy_begin": 3000,
            "copy_end": 7000,
            "handler": handler,
        }

    results["phases"]["rows"] = [row(0, 9_000_000), row(1, 8000), row(2, 12_000)]
    said = sentences.phases(results)
    assert "On poll the handler ran 12.0 µs after the send." in said
    assert "by the process took 4.0 µs on poll" in said
    assert "the process is blocked in at least one phase" in said


def test_phases_name_the_free_process(results):
    assert "On io_uring the process was free" in sentences.phases(results)
    assert "io_uring" not in sentences.phases(without(results, "io_uring"))


def test_second_client_of_blocking_waits(results):
    said = sentences.waiting(results)
    blocking = sorted(
        row["first_answer_ms"] for row in results["waiting"]["rows"] if row["model"] == "blocking"
    )
    assert f"On blocking the second client waited {blocking[1]:.1f} ms" in said
    for row in results["waiting"]["rows"]:
        row["first_answer_ms"] = 0.5 + 0.01 * row["client"]
    assert "second client" not in sentences.waiting(results)


def test_idle_names_where_select_stops_and_which_models_stay_flat(results):
    said = sentences.idle(results)
    assert "select ends at 1,000 idle connections and was not measured at 10,000" in said
    assert "fd number 1024" in said
    assert "On threaded, epoll, epoll-edge and io_uring it grew by at most 10%." in said
    for row in results["idle"]["rows"]:
        if row["model"] == "select" and row["idle"] == 10_000:
            row["cpu_us_per_message"] = 14.0
    assert "select ends" not in sentences.idle(results)


def test_triggers_count(results):
    said = sentences.triggers(results)
    assert "Edge-triggered epoll-edge reported it once in 5 polls" in said
    for row in results["triggers"]["rows"]:
        if row["trigger"] == "edge":
            row["told"] = 5
    said = sentences.triggers(results)
    assert "Edge-triggered epoll-edge reported it 5 times in 5 polls" in said
    assert "does not report again" not in said


@pytest.mark.parametrize("figure", SECTIONS)
def test_nothing_measured_is_reported(figure, results):
    says = sentences.FIGURES[figure]
    assert says({}).endswith(" not measured.")
    assert says({figure: {"rows": []}, "models": []}).endswith(" not measured.")
    assert says(holed(results)).endswith(" not measured.")


@pytest.mark.parametrize("figure", SECTIONS)
def test_missing_values_raise_no_error(figure, results):
    says = sentences.FIGURES[figure]
    for i in range(len(results[figure]["rows"])):
        for key in tuple(results[figure]["rows"][i]):
            broken = {**results, figure: copy.deepcopy(results[figure])}
            broken[figure]["rows"][i][key] = None
            assert says(broken)
            del broken[figure]["rows"][i][key]
            assert says(broken)
    for model in sentences.document.model_order(results, results[figure]["rows"]):
        assert model not in re.split(r"[ ,.;()]+", says(without(results, model)))


# -- the terminal ----------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [60, 80, 100, 140])
def test_tables_fit(results, width):
    lines = printed(results, width).splitlines()
    assert max(map(len, lines)) <= width
    assert not any("…" in line for line in lines), "a value was cut off"


def test_narrow_tables_keep_what_matters_most(results):
    wide, narrow = printed(results, 100), printed(results, 80)
    assert "p99.9 µs" in wide
    assert "p99.9 µs" not in narrow
    assert "messages/s" in narrow


def test_tables_are_followed_by_the_sentences(results):
    words = " ".join(printed(results, 100).split())
    for says in sentences.FIGURES.values():
        assert says(results) in words


def test_best_value_is_marked_among_those_that_serve_everybody(results):
    last = list(tables.throughput(results).cells())[-1]
    best = {row[1].text: [cell.best for cell in row] for row in last}
    rate = next(i for i, c in enumerate(tables.throughput(results).columns) if c.best == "max")
    assert [name for name, marks in best.items() if marks[rate]] == ["io_uring"]
    assert not any(best["blocking"]), "its latency is that of one client of a thousand"


def test_tables_without_values(results):
    assert "Throughput was not measured." in printed({}, 80)
    assert "Throughput was not measured." in printed(holed(results), 80)


def test_a_missing_model_is_reported_with_its_reason(results):
    out = printed(without(results, "io_uring"), 100)
    assert "Not available here: io_uring (seccomp refuses io_uring_setup (EPERM))." in out


# -- the page --------------------------------------------------------------------------------------


class Page(HTMLParser):
    """Parses the page: its elements and the text of each script."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.text: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data):
        if self.lasttag == "script" and self.scripts:
            self.scripts[-1] += data
        self.text.append(data)

    @property
    def data(self) -> Any:
        return json.loads(self.scripts[0])


def test_page_loads_nothing_from_the_network(results):
    page = report.render(results)
    parsed = Page(page)
    loading = {"src", "href", "srcset", "data", "poster", "action", "xlink:href"}
    for tag, attributes in parsed.elements:
        for name, value in attributes.items():
            if name in loading:
                assert (value or "").startswith(("data:", "#")), f"<{tag} {name}={value!r}>"
    style = page[page.index("<style>") : page.index("</style>")]
    assert "@import" not in style
    assert not re.search(r"https?:|//\w", style)
    # The only URLs left are XML namespaces and the libraries' licence comments.
    for address in re.findall(r"https?://[^\s\"'`)]+", page):
        assert address.startswith(("http://www.w3.org/", "https://d3js.org")), address
    policy = dict(parsed.elements[[t for t, _ in parsed.elements].index("meta") + 2][1])
    assert "default-src 'none'" in (policy["content"] or "")


def test_page_holds_the_whole_document(results):
    assert Page(report.render(results)).data == results


def test_hostile_data_stays_data(results):
    evil = "</script><img src=x onerror=alert(1)><!-- & \u2028"
    results["command"] = evil
    results["models"][0]["reason"] = evil
    results["models"][0]["available"] = False
    results["throughput"]["rows"][0]["note"] = evil
    results["throughput"]["rows"][1]["model"] = evil
    results["throughput"]["rows"][2]["p50_us"] = float("nan")
    page = report.render(results)
    parsed = Page(page)
    assert "img" not in [tag for tag, _ in parsed.elements]
    assert parsed.data["command"] == evil
    assert parsed.data["throughput"]["rows"][2]["p50_us"] is None
    assert any(evil in text for text in parsed.text), "it is shown as text"


def test_page_shows_sentences_and_numbers_without_javascript(results):
    text = " ".join(" ".join(Page(report.render(results)).text).replace("\xa0", " ").split())
    for says in sentences.FIGURES.values():
        assert says(results) in text
    assert "98,904" in text  # io_uring at 10 connections, from the folded table


def test_page_shows_only_the_requested_measurements(results):
    page = report.render({**results, "only": ["idle", "triggers"]})
    assert re.findall(r'id="figure-(\w+)"', page) == ["idle", "triggers"]
    assert re.findall(r'id="figure-(\w+)"', report.render(results)) == list(sentences.FIGURES)


def test_page_with_missing_values(results):
    for hurt in ({}, holed(results), {"models": None, "throughput": None, "idle": {"rows": None}}):
        assert "Throughput was not measured." in Page(report.render(hurt)).text


def test_write_is_atomic(results, tmp_path, monkeypatch):
    path = tmp_path / "compare.html"
    report.write(results, path)
    assert path.read_text("utf-8") == report.render(results)
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="disk full"):
        report.write({}, path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["compare.html"]


def test_vendored_files_are_the_recorded_ones():
    recorded = set()
    for line in (VENDOR / "VERSIONS").read_text("utf-8").splitlines():
        if line.startswith("#") or not line.strip():
            continue
        name, version, licence, licence_file, file, digest, how = map(str.strip, line.split("|"))
        assert hashlib.sha256((VENDOR / file).read_bytes()).hexdigest() == digest, file
        assert f"v{version}" in (VENDOR / file).read_text("utf-8")[:200]
        assert licence == "ISC"
        assert "Permission to use, copy, modify" in (VENDOR / licence_file).read_text("utf-8")
        assert how.startswith(f"npm pack {name}@{version}")
        recorded |= {file, licence_file}
    assert recorded | {"VERSIONS"} == {path.name for path in VENDOR.iterdir()}
    assert set(report.LIBRARIES) <= recorded


CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)


def opened(
    page: Path, profile: Path, fragment: str = "", width: int = 1280
) -> tuple[str, list[str]]:
    """Return the page as rendered by Chromium, and its console output."""
    done = subprocess.run(
        [
            str(CHROMIUM),
            *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
            *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
            *("--enable-logging=stderr", f"--user-data-dir={profile}", "--dump-dom"),
            f"--window-size={width},2000",
            f"{page.as_uri()}{fragment}",
        ],
        capture_output=True,
        text=True,
        timeout=50,
        check=True,
    )
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@pytest.mark.skipif(
    CHROMIUM is None, reason="needs Chromium to open the page in: none is installed"
)
def test_page_opens_in_chromium(results, tmp_path):
    path = tmp_path / "compare.html"
    report.write(without(results, "io_uring"), path)
    page, console = opened(path, tmp_path / "profile")
    assert console == []
    figures = page.split('class="figure"')[1:]
    assert [re.findall(r'data-figure="(\w+)"', figure)[0] for figure in figures] == list(SECTIONS)
    for figure in figures:
        assert re.search(r'<svg[^>]* aria-label="', figure), "a figure was not drawn"
    assert "select stops" in page
    assert "handler 51.6 µs" in page

    report.write({}, path)
    page, console = opened(path, tmp_path / "profile", "#only=phases&theme=dark", 500)
    assert console == []
    assert 'data-only="phases"' in page
    assert 'data-theme="dark"' in page
