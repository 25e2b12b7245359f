"""The figures of `noria compare` as a browser draws them: whiskers, axes, labels, the noise."""

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("jinja2", reason="the page needs jinja2, part of noria[cli]")

from noria.compare.report import document, noise, page, spread_tables
from support.chromium import PROGRAM, Browser
from support.compare_documents import SAMPLE, scale, with_outlier, with_rounds

needs_chromium = pytest.mark.skipif(not PROGRAM, reason="needs Chromium to open the page in")


def show(
    browser: Browser,
    results: dict[str, Any],
    path: Path,
    width: int = 1200,
    dark: bool = False,
    only: str = "",
) -> None:
    """Open the page of a document; with `only` it draws one figure, which takes less time."""
    page.write(results, path)
    browser.renew()
    browser.show(f"{path.as_uri()}#only={only}", width=width, dark=dark)
    browser.until("document.documentElement.dataset.drawn")


def number_of(browser: Browser, selector: str) -> int:
    return browser.ask(f"document.querySelectorAll({json.dumps(selector)}).length")


def text_of(browser: Browser, figure: str) -> str:
    return browser.ask(f"document.querySelector('[data-chart=\"{figure}\"]').textContent")


# -- whiskers --------------------------------------------------------------------------------------


@needs_chromium
@pytest.mark.parametrize("figure", ["throughput", "phases", "waiting", "idle"])
def test_figures_have_whiskers_and_say_what_they_are(browser, figure, tmp_path):
    show(browser, with_rounds(rounds=6), tmp_path / "page.html", only=figure)
    chart = f'[data-chart="{figure}"]'
    assert number_of(browser, f"{chart} .whisker line") >= 8
    of = "7 samples" if figure == "phases" else "6 rounds"
    assert f"lowest to highest of {of}" in text_of(browser, figure)
    assert browser.errors == []


@needs_chromium
def test_each_measure_of_throughput_has_whiskers(browser, tmp_path):
    show(browser, with_rounds(deviation=0.2), tmp_path / "page.html", only="throughput")
    drawn = "[...document.querySelectorAll('[data-chart=\"throughput\"] > svg')]"
    whiskers = browser.ask(f"{drawn}.map(svg => svg.querySelectorAll('.whisker line').length)")
    points = len(SAMPLE["throughput"]["rows"])
    assert whiskers[0] == points
    assert whiskers[1] == 3 * points  # p50, p99 and p99.9
    assert whiskers[2] == points
    assert whiskers[3] > 0  # system calls per message


@needs_chromium
def test_the_phases_show_rounds_and_samples(browser, tmp_path):
    results = with_rounds()
    for row in results["phases"]["rows"]:
        row["round"] = row["sample"] % 3
    show(browser, results, tmp_path / "page.html")
    said = text_of(browser, "phases")
    assert "lowest to highest of 3 rounds" in said
    assert number_of(browser, '[data-chart="phases"] circle[r="2.2"]') == 56
    assert len(results["phases"]["rows"]) == 56


@needs_chromium
def test_a_document_of_one_round_has_no_whiskers(browser, tmp_path):
    show(browser, with_rounds(rounds=1), tmp_path / "page.html")
    for figure in ("throughput", "waiting", "idle"):
        assert number_of(browser, f'[data-chart="{figure}"] .whisker *') == 0
        assert "whisker" not in text_of(browser, figure)
    assert browser.errors == []


@needs_chromium
def test_the_tooltip_says_median_lowest_highest_and_rounds(browser, tmp_path):
    show(browser, with_rounds(), tmp_path / "page.html", only="throughput")
    row = "rowsOf('throughput')[0]"
    said = browser.ask(f"spreadLines('p50', spreadOf({row}, 'p50_us'), us)")
    found = browser.ask(row)
    median, low, high = (
        browser.ask(f"us({value})")
        for value in (found["p50_us"], found["lowest"]["p50_us"], found["highest"]["p50_us"])
    )
    assert " ".join(said.split()) == f"p50 {median} lowest {low}, highest {high} of 5 rounds"
    box = browser.ask(
        "(() => { const dot = document.querySelector('[data-chart=\"throughput\"] > svg circle');"
        "dot.scrollIntoView({block: 'center'}); const box = dot.getBoundingClientRect();"
        "return [box.x + box.width / 2, box.y + box.height / 2] })()"
    )
    browser.call("Input.dispatchMouseEvent", type="mouseMoved", x=box[0], y=box[1])
    tip = "document.querySelector('[aria-label=\"tip\"]:has(tspan)')?.textContent"
    browser.until(tip)
    assert "of 5 rounds" in browser.ask(tip)


def test_tables_have_median_lowest_highest_and_rounds():
    results = with_rounds()
    for figure in ("throughput", "waiting", "idle"):
        tables = spread_tables.of_figure(results, figure)
        cells = [
            cell.text
            for table in tables
            for group in table.cells()
            for row in group
            for cell in row
        ]
        assert "5" in cells
        row = results[figure]["rows"][0]
        key = next(iter(spread_tables.MEASURED[figure][1][0]))
        low, high = row["lowest"][key], row["highest"][key]
        digits = 0 if row[key] >= 1000 else 1 if row[key] >= 100 else 2
        said = f"{row[key]:,.{digits}f} ({low:,.{digits}f} to {high:,.{digits}f})"
        assert said in cells
        assert said in page.render(results)
    assert spread_tables.of_figure(SAMPLE, "throughput") == []
    assert spread_tables.of_figure(results, "triggers") == []


def test_the_table_of_the_phases_counts_samples():
    (table,) = spread_tables.of_figure(SAMPLE, "phases")
    cells = {row[0].text: row for group in table.cells() for row in group}
    times = sorted(
        row["handler"] / 1000 for row in SAMPLE["phases"]["rows"] if row["model"] == "epoll"
    )
    assert [cell.text for cell in cells["epoll"][1:]] == [
        str(len(times)),
        f"{times[3]:.2f} ({times[0]:.2f} to {times[-1]:.2f})",
    ]


def test_the_phases_have_the_spread_of_the_rounds_medians():
    rows = [
        {"model": "epoll", "sample": i, "round": i // 3, "sent": 0, "handler": 1000 * value}
        for i, value in enumerate([1, 2, 90, 5, 6, 7])
    ]
    (table,) = spread_tables.of_figure({"phases": {"rows": rows}}, "phases")
    assert [cell.text for cell in next(iter(table.cells()))[0]] == [
        "epoll",
        "2",
        "4.00 (2.00 to 6.00)",
    ]


def test_the_drawn_message_is_the_nearest_to_the_median_of_the_rounds():
    """Not the median of all messages, which a slow round with more of them would move."""
    results = {
        "phases": {
            "rows": [
                {"model": "epoll", "sample": i, "round": n, "sent": 100, "handler": 100 + time}
                for i, (n, time) in enumerate([(0, 10), (1, 20), (2, 40), (2, 50), (2, 60)])
            ]
        }
    }
    (chosen,) = document.phase_samples(results)
    assert (chosen["sent"], chosen["handler"]) == (0, 20)


@needs_chromium
def test_the_page_draws_the_message_of_the_table(browser, tmp_path):
    results = with_rounds()
    for row in results["phases"]["rows"]:
        row["round"] = row["sample"] // 3
    show(browser, results, tmp_path / "page.html")
    drawn = browser.ask("medianSamples().map(sample => [sample.name, sample.handler])")
    chosen = document.phase_samples(results)
    assert drawn == [[row["model"], pytest.approx(row["handler"] / 1000)] for row in chosen]


def test_rounds_without_a_value_are_not_counted():
    row = {"model": "epoll", "idle": 0, "us_per_message": 2.0, "cpu_us_per_message": None}
    row["rounds"] = {"us_per_message": [1.0, None, 3.0], "cpu_us_per_message": [None, None, None]}
    row |= {"lowest": {"us_per_message": 1.0}, "highest": {"us_per_message": 3.0}}
    (table,) = spread_tables.of_figure({"idle": {"rows": [row]}}, "idle")
    assert [cell.text for cell in next(iter(table.cells()))[0]] == [
        "epoll",
        "0",
        "2",
        "2.00 (1.00 to 3.00)",
        "–",
    ]


# -- axes ------------------------------------------------------------------------------------------


@needs_chromium
def test_an_outlier_breaks_the_axis_of_bars(browser, tmp_path):
    """The bars of the others keep their length; the cut one has its value beside it."""
    outlier = with_outlier(with_rounds())
    drawn = []
    for results in (with_rounds(), outlier):
        show(browser, results, tmp_path / "page.html", only="throughput")
        bars = (
            "[...[...document.querySelectorAll('[data-chart=\"throughput\"] > svg')][2]"
            ".querySelectorAll('[aria-label=\"bar\"] rect')].map(bar => bar.getBBox().width)"
        )
        drawn.append(sorted(browser.ask(bars))[len(browser.ask(bars)) // 2])
        assert (number_of(browser, ".break") > 0) == (results is outlier)
    assert drawn[1] > 0.5 * drawn[0]
    said = text_of(browser, "throughput")
    assert "axis broken at" in said
    row = next(
        row
        for row in outlier["throughput"]["rows"]
        if row["model"] == "threaded" and row["connections"] == 1000
    )
    assert f"{row['user_us'] + row['kernel_us']:,.0f}" in said


@needs_chromium
def test_a_whisker_beyond_the_break_is_cut(browser, tmp_path):
    results = with_rounds()
    row = results["throughput"]["rows"][0]
    row["rounds"]["kernel_us"][0] = row["highest"]["kernel_us"] = 5000.0
    show(browser, results, tmp_path / "page.html", only="throughput")
    panels = len({row["connections"] for row in results["throughput"]["rows"]})
    assert number_of(browser, ".break path") == panels + 1  # on each axis, and on the whisker


@needs_chromium
def test_an_outlier_makes_the_axis_of_dots_logarithmic(browser, tmp_path):
    results = with_rounds()
    show(browser, results, tmp_path / "page.html")
    assert "log axis" not in browser.ask("document.querySelectorAll('.chart h3')[2].textContent")
    for row in results["throughput"]["rows"]:
        if row["model"] == "nonblocking":
            scale(row, "syscalls_per_message", 500.0)
    show(browser, results, tmp_path / "page.html")
    heading = (
        "[...document.querySelectorAll('h3')].find(h => h.textContent.includes('System calls'))"
    )
    assert "log axis" in browser.ask(f"{heading}.textContent")
    assert number_of(browser, '[data-chart="throughput"] .log-grid line') > 0


AXES = (
    ([5, 6, 7, 8], False, "linear"),
    ([5, 6, 7, 65], False, "linear"),
    ([5, 6, 7, 66], False, "log"),
    ([5, 6, 7, 3228], True, "broken"),
    ([3000, 3100, 3200, 5], True, "linear"),
    ([], True, "linear"),
)


@needs_chromium
def test_the_rule_of_the_axes(browser, tmp_path):
    show(browser, SAMPLE, tmp_path / "page.html", only="triggers")
    for medians, bars, kind in AXES:
        axis = browser.ask(f"chooseAxis({medians}, [], {{bars: {json.dumps(bars)}}})")
        assert axis["kind"] == kind
        if kind == "broken":
            assert max(medians[:-1]) < axis["high"] < 10
        elif medians:
            assert axis["high"] >= max(medians)
    # The end of a whisker counts for the axis.
    assert browser.ask("chooseAxis([5, 6, 7], [5, 6, 700]).kind") == "log"


# -- labels, widths, themes ------------------------------------------------------------------------

OVERLAPS = """
[...document.querySelectorAll('[data-chart="idle"] svg')].flatMap(svg => {
  const all = [...svg.querySelectorAll('text')];
  const labels = all.filter(text => text.style.pointerEvents === 'none');
  const boxes = labels.map(text => [text.textContent, text.getBoundingClientRect()]);
  return boxes.flatMap(([a, one], i) => boxes.slice(i + 1).filter(([b, other]) =>
    one.left < other.right - 1 && other.left < one.right - 1 &&
    one.top < other.bottom - 3 && other.top < one.bottom - 3).map(([b]) => `${a} / ${b}`));
})
"""


@needs_chromium
@pytest.mark.parametrize("width", [400, 700, 1200])
def test_labels_of_the_idle_curves_do_not_overlap(browser, width, tmp_path):
    for seed in range(3):
        results = with_rounds(seed=seed, deviation=0.1 * seed)
        if seed == 2:  # several curves end early, close to each other
            for row in results["idle"]["rows"]:
                if row["idle"] > 100 and row["model"] in ("poll", "epoll", "threaded"):
                    row |= {"us_per_message": None, "cpu_us_per_message": None}
        show(browser, results, tmp_path / "page.html", width=width, only="idle")
        assert number_of(browser, '[data-chart="idle"] svg') > 0
        assert browser.ask(OVERLAPS) == []


@needs_chromium
@pytest.mark.parametrize(("width", "dark"), [(360, False), (1600, True)])
def test_the_page_fits_and_draws_only_numbers(browser, width, dark, tmp_path):
    show(browser, with_outlier(with_rounds()), tmp_path / "page.html", width=width, dark=dark)
    root = "document.documentElement"
    assert browser.ask(f"{root}.scrollWidth <= {root}.clientWidth")
    assert browser.ask("document.querySelector('main').innerHTML.includes('NaN')") is False
    assert browser.ask("document.querySelector('main').innerHTML.includes('undefined')") is False
    assert number_of(browser, ".chart svg[aria-label][role=img]") >= 10
    assert browser.ask("performance.getEntriesByType('resource').length") == 0
    assert browser.errors == []


@needs_chromium
def test_missing_rounds_and_numbers_are_skipped(browser, tmp_path):
    results = with_rounds()
    for figure in ("throughput", "waiting", "idle"):
        for i, row in enumerate(results[figure]["rows"]):
            if i % 3 == 0:
                row["rounds"] = {key: [None, *each[1:]] for key, each in row["rounds"].items()}
            elif i % 3 == 1:
                del row["rounds"], row["lowest"], row["highest"]
    results["noise"]["pairs"][0]["ratio"] = None
    show(browser, results, tmp_path / "page.html")
    assert browser.errors == []
    assert browser.ask("document.querySelector('main').innerHTML.includes('NaN')") is False


# -- the noise -------------------------------------------------------------------------------------


@needs_chromium
def test_the_noise_is_drawn(browser, tmp_path):
    results = with_rounds(rounds=5, deviation=0.3)
    show(browser, results, tmp_path / "page.html")
    assert number_of(browser, '[data-chart="noise"] [aria-label="dot"] circle') == 3
    assert number_of(browser, '[data-chart="noise"] .whisker line') == 3
    assert number_of(browser, '[data-chart="noise"] .band rect') == 1
    said = text_of(browser, "noise")
    assert "messages/s, epoll" in said
    assert "100 connections" in said
    labels = "[...document.querySelectorAll('[data-chart=\"noise\"] text')]"
    assert browser.ask(f"{labels}.every(text => text.getBoundingClientRect().left >= 0)")
    assert "3.1%" in said
    assert f"up to {results['noise']['same_server']:.2f} times" in said
    caption = browser.ask("document.getElementById('sentence-noise').textContent")
    assert "Noise of this machine" not in caption  # the warning has all that is large
    assert results["noise"]["warning"][1:] in caption


@needs_chromium
def test_noise_that_was_measured_in_part(browser, tmp_path):
    results = with_rounds()
    results["noise"] |= {"pairs": [], "ratios": [], "same_server": None, "steal_share": None}
    show(browser, results, tmp_path / "page.html")
    assert number_of(browser, '[data-chart="noise"] svg[role="img"]') == 1
    assert browser.errors == []


def test_the_noise_has_a_table():
    results = with_rounds()
    written = page.render(results)
    assert 'id="figure-noise"' in written
    for pair in results["noise"]["pairs"]:
        for key in ("ratio", "low", "high"):
            assert f"{pair[key]:.3f}" in written
    assert "3.1%" in written


def test_a_document_without_noise_has_no_figure_of_it():
    assert 'id="figure-noise"' not in page.render(SAMPLE)
    assert not noise.measured({"noise": None})
    assert noise.sentence({}).endswith("was not measured.")
    assert not noise.measured({"noise": {"pairs": [None], "steal_share": None}})
