"""The output of `noria compare`: sentences, terminal tables and the page.

`data/compare_sample.json` has the structure of a run, with invented values.
"""

import copy
import hashlib
import json
import os
import re
import shutil
import statistics
import subprocess
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("jinja2", reason="the page needs jinja2, part of noria[cli]")
pytest.importorskip("rich", reason="the tables need rich, part of noria[cli]")

from rich.console import Console

from noria.compare.report import claims, sentences, tables
from noria.compare.report import page as report
from support.compare_documents import with_rounds

SAMPLE = json.loads((Path(__file__).parents[1] / "data" / "compare_sample.json").read_text("utf-8"))
VENDOR = Path(report.__file__).parent / "vendor"
SECTIONS = tuple(sentences.FIGURES)


@pytest.fixture
def results() -> dict[str, Any]:
    return copy.deepcopy(SAMPLE)


@pytest.fixture
def measured() -> dict[str, Any]:
    """Return a document of seven rounds with little noise."""
    found = with_rounds(7, 0.02)
    found["noise"]["same_server"] = 1.02
    return found


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


def set_rounds(row: dict[str, Any], column: str, values: list[float | None]) -> None:
    """Give a column of a row its rounds, and the median as its value."""
    numbers = [value for value in values if value is not None]
    row[column] = statistics.median(numbers) if numbers else None
    for key, value in (
        ("rounds", values),
        ("lowest", min(numbers, default=None)),
        ("highest", max(numbers, default=None)),
    ):
        row.setdefault(key, {})[column] = value


def rates(**models: tuple[float, ...]) -> dict[str, Any]:
    """Return a document with the throughput of models at 1 and 1,000 connections, quite steady."""
    rows = []
    for name, medians in models.items():
        for connections, rate in zip((1, 1000), medians, strict=False):
            row = {"model": name, "connections": connections, "served": connections}
            steady = (1.0, 1.01, 0.99, 1.02, 0.98, 1.0, 1.0)
            set_rounds(row, "messages_per_second", [rate * factor for factor in steady])
            rows.append(row)
    return {"throughput": {"rows": rows}}


def test_throughput_names_the_fastest(measured):
    for row in measured["throughput"]["rows"]:
        if row["model"] == "poll":
            set_rounds(row, "messages_per_second", [4e5, 3.9e5, 4.1e5, 4.02e5, 4e5, 3.98e5, 4e5])
    said = sentences.FIGURES["throughput"](measured)
    assert (
        "With 1,000 connections poll is the fastest and answers about 400,000 messages per second "
        "(390,000–410,000)" in said
    )


def test_values_have_three_digits_if_the_rounds_are_close():
    said = sentences.FIGURES["throughput"](rates(epoll=(154_682.0,)))
    assert said == (
        "With 1 connection epoll answers about 155,000 messages per second (152,000–158,000)."
    )


def test_throughput_names_those_that_cannot_be_told_apart():
    found = rates(epoll=(100.0, 100.0), poll=(98.0, 97.0), select=(99.0, 60.0))
    first, second = sentences.throughput(found)
    assert first.text == (
        "With 1 connection no difference could be measured between epoll, select and poll, "
        "which answer about 99.0 messages per second (96.0–102)."
    )
    assert first.claims == []
    assert "no difference could be measured between epoll and poll" in second.text
    assert "; select answers 60% of what epoll answers" in second.text
    [claim] = second.claims
    assert (claim["higher"], claim["lower"]) == ("epoll", "select")
    assert claim["at"] == {"connections": 1000}
    assert claim["ratio"] == pytest.approx(100 / 60)
    assert claim["low"] <= claim["ratio"] <= claim["high"]


def test_few_rounds_claim_nothing(results):
    for figure in SECTIONS:
        for statement in sentences.STATEMENTS[figure](results):
            assert statement.claims == [], statement.text
    assert claims.claims(results) == []


def test_noise_larger_than_a_difference_hides_it():
    found = rates(epoll=(100.0,), select=(80.0,))
    assert "select answers 80%" in sentences.FIGURES["throughput"](found)
    found["noise"] = {"same_server": 1.3}
    assert "no difference could be measured" in sentences.FIGURES["throughput"](found)
    assert claims.claims(found) == []


def test_every_stated_ratio_is_a_claim(measured):
    """The interval of each claim of a sentence is in its text, and no other interval of a ratio."""
    stated = 0
    for figure in SECTIONS:
        for statement in sentences.STATEMENTS[figure](measured):
            said = re.findall(r"\) times|[\d.,]+ times|\d%", statement.text)
            if "in 5 polls" in statement.text:
                continue
            assert bool(said) == bool(statement.claims), statement.text
            stated += len(statement.claims)
            for claim in statement.claims:
                names = (claim["higher"], claim["lower"], claim["at"].get("model", ""))
                assert any(name and name in statement.text for name in names)
    assert stated > 10
    assert len(claims.claims(measured)) >= stated


def test_claims_contradict_only_the_opposite():
    one = claims.claims(rates(epoll=(100.0, 100.0), select=(80.0, 60.0)))
    two = claims.claims(rates(epoll=(80.0, 60.0), select=(100.0, 100.0)))
    level = claims.claims(rates(epoll=(100.0, 100.0), select=(100.0, 60.0)))
    assert claims.contradictions(one, one) == []
    assert claims.contradictions(one, level) == []
    assert claims.contradictions({"claims": one}, {}) == []
    assert len(claims.contradictions({"claims": one}, {"claims": two})) == 2
    [(mine, other)] = claims.contradictions(level, two)
    assert mine["at"] == other["at"] == {"connections": 1000}
    assert (mine["higher"], other["higher"]) == ("epoll", "select")


def test_phases_follow_the_median_sample(results):
    def row(sample, handler):
        return {
            "model": "poll",
            "sample": sample,
            "round": sample,
            "asked": -2_000_000,
            "sent": 0,
            "arrived": 1000,
            "ready": 2000,
            "copy_begin": 3000,
            "copy_end": 7000,
            "handler": handler,
        }

    results["phases"]["rows"] = [row(0, 9_000_000), row(1, 8000), row(2, 12_000)]
    said = sentences.FIGURES["phases"](results)
    assert "On poll the handler ran about 12 µs (8.0–9,000) after the send." in said
    assert "by the process took 4.0 µs on poll" in said
    assert "the process is blocked in at least one phase" in said


def test_phases_compare_the_medians_of_rounds(results):
    rows = [
        {"model": name, "round": number, "sent": 0, "handler": handler + 10 * number}
        for name, handler in (("poll", 20_000), ("epoll", 10_000))
        for number in range(7)
        for _ in range(2)
    ]
    results["phases"]["rows"] = rows
    first = sentences.phases(results)[0]
    assert first.text.startswith("From send to handler epoll took the shortest time, about 10.0 µs")
    assert "; poll took 2.00 (1.99–2.00) times as long." in first.text
    assert [(claim["higher"], claim["lower"]) for claim in first.claims] == [("poll", "epoll")]


def test_phases_name_the_free_process(results):
    said = sentences.FIGURES["phases"]
    assert "On io_uring the process was free" in said(results)
    assert "io_uring" not in said(without(results, "io_uring"))


def test_second_client_of_blocking_waits(measured):
    said = sentences.FIGURES["waiting"](measured)
    wait = r"On blocking the second client waited about [\d.]+ ms \([\d.]+–[\d.]+\), the last"
    assert re.search(wait, said)
    assert "because each client stays connected for 20 ms" in said
    assert "Among the other models, " in said
    assert "second client" not in sentences.FIGURES["waiting"](without(measured, "blocking"))


def test_idle_names_where_select_stops_and_where_no_growth_was_measured(measured):
    said = sentences.FIGURES["idle"](measured)
    assert "select ends at 1,000 idle connections and was not measured at 10,000" in said
    assert "fd number 1024" in said
    assert re.search(
        r"Beside 10,000 idle connections a message takes [\d.]+ \([\d.]+–[\d.]+\) times the CPU "
        r"time it takes beside none on \w+",
        said,
    )
    assert "no difference could be measured on epoll, epoll-edge and io_uring" in said
    grown = [claim for claim in claims.claims(measured) if "model" in claim["at"]]
    assert {(claim["higher"], claim["lower"]) for claim in grown} <= {
        ("1000 idle", "0 idle"),
        ("10000 idle", "0 idle"),
    }
    for row in measured["idle"]["rows"]:
        if row["model"] == "select" and row["idle"] == 10_000:
            row["cpu_us_per_message"] = 14.0
    assert "select ends" not in sentences.FIGURES["idle"](measured)


def test_idle_connections_that_were_left_out_are_named_once(measured):
    for row in measured["idle"]["rows"]:
        if row["idle"] >= 1000:
            row |= {"us_per_message": None, "cpu_us_per_message": None, "note": "no time"}
    said = sentences.FIGURES["idle"](measured)
    assert "Beside 100 idle connections a message takes" in said
    assert said.count("There was no time to measure 1,000 and 10,000 idle connections.") == 1
    assert "select ends" not in said


def test_triggers_count(results):
    said = sentences.FIGURES["triggers"](results)
    assert "Edge-triggered epoll-edge reported it once in 5 polls" in said
    for row in results["triggers"]["rows"]:
        if row["trigger"] == "edge":
            row["told"] = 5
    said = sentences.FIGURES["triggers"](results)
    assert "Edge-triggered epoll-edge reported it 5 times in 5 polls" in said
    assert "does not report again" not in said


def test_noise_is_one_sentence(measured):
    measured["noise"] |= {"same_server": 1.034, "waited_share": 0.2, "steal_share": None}
    assert sentences.noise(measured) == (
        "Noise of this machine: the same server measured twice differed by at most 3.4%, the "
        "server waited for its core 20% of the time, other processes used 5.2% of the cores."
    )
    assert sentences.noise({}) == ""


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


def test_narrow_tables_keep_what_matters_most(measured):
    wide, narrow = printed(measured, 120), printed(measured, 80)
    assert "user µs" in wide
    assert "user µs" not in narrow
    assert "messages/s" in narrow


def test_connections_that_no_model_was_measured_with_have_only_a_note(measured):
    for row in measured["throughput"]["rows"]:
        if row["connections"] == 1000:
            for column, values in row["rounds"].items():
                set_rounds(row, column, [None] * len(values))
            row["note"] = "not measured: out of time"
    out = " ".join(printed(measured, 80).split())
    assert "all models (from 1,000 connections): not measured: out of time" in out
    assert "1,000 select" not in out
    assert "With 100 connections " in out


def test_tables_have_medians_with_the_spread_of_the_rounds(measured):
    row = next(row for row in measured["throughput"]["rows"] if row["model"] == "epoll")
    set_rounds(row, "messages_per_second", [90.0, 100.0, 100.0, 100.0, 110.0])
    set_rounds(row, "p50_us", [7.0] * 5)
    out = printed(measured, 80)
    assert "100 ±10%" in out
    assert "7.0 " in out


def test_tables_are_followed_by_the_sentences(results):
    words = " ".join(printed(results, 100).split())
    for says in sentences.FIGURES.values():
        assert says(results) in words


def marked(table: tables.Table, group: int, label: str) -> list[str]:
    """Return the models marked as the best in one group and column of a table."""
    column = next(i for i, each in enumerate(table.columns) if each.label == label)
    return [row[1].text for row in list(table.cells())[group] if row[column].best]


def test_best_value_is_marked_only_if_it_is_measurably_better():
    table = tables.throughput(rates(epoll=(100.0, 100.0), poll=(99.0, 70.0), select=(60.0, 60.0)))
    assert marked(table, 0, "messages/s") == []
    assert marked(table, 1, "messages/s") == ["epoll"]
    found = claims.claims(rates(epoll=(99.0, 100.0), poll=(100.0, 70.0)))
    assert [(c["at"]["connections"], c["higher"], c["lower"]) for c in found] == [
        (1000, "epoll", "poll")
    ]


def test_a_missing_value_marks_no_cell_of_its_row(measured):
    measured["noise"] = {"same_server": 1000.0}
    for section, column in (("idle", "us_per_message"), ("throughput", "syscalls_per_message")):
        row = measured[section]["rows"][0]
        row[column] = None
        row["rounds"][column] = [None] * 7
    shown = [table for figure in SECTIONS for table in tables.of_figure(measured, figure)]
    for table in [*shown, tables.syscalls(measured)]:
        marks = [cell for group in table.cells() for row in group for cell in row if cell.best]
        assert marks == [], table.title


def test_every_mark_is_a_claim(measured):
    table = tables.throughput(measured)
    found = claims.claims(measured)
    assert any(marked(table, 3, column.label) for column in table.columns)
    [best] = marked(table, 3, "kernel µs") or [None]
    if best is not None:
        assert any(c["column"] == "kernel_us" and best == c["lower"] for c in found)


def test_those_that_do_not_serve_everybody_are_not_compared(measured):
    for row in measured["throughput"]["rows"]:
        if row["model"] == "blocking":
            set_rounds(row, "p50_us", [0.001] * 7)
    table = tables.throughput(measured)
    assert marked(table, 0, "p50 µs") == ["blocking"], "it serves the only connection"
    assert "blocking" not in marked(table, 3, "p50 µs")


def test_the_noise_and_its_warning_are_printed(measured):
    measured["noise"] |= {"warning": "the machine was noisy: it was", "noisy": True}
    out = " ".join(printed(measured, 100).split())
    assert sentences.noise(measured) in out
    assert "Warning: the machine was noisy: it was." in out


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
