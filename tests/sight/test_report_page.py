"""The page of a recording as a browser shows it: the timeline's zoom, the flame graph, tables."""

from __future__ import annotations

import pytest

pytest.importorskip("jinja2", reason="the page needs jinja2, part of noria[cli]")

from noria.cli.main import run
from support.chromium import PROGRAM, Browser
from support.recordings import Ring, echo, synthetic_recording, write_recording

pytestmark = pytest.mark.skipif(not PROGRAM, reason="needs Chromium to open the page in")


@pytest.fixture
def browser(tmp_path_factory):
    with Browser(tmp_path_factory.mktemp("browser")) as started:
        started.renew()
        yield started


def test_the_page_is_drawn_and_answers_to_keys_wheel_and_pointer(browser, tmp_path, capsys):
    synthetic_recording(tmp_path / "run.noria")
    assert run(["report", str(tmp_path / "run.noria")]) == 0
    browser.show((tmp_path / "run.html").as_uri(), width=1200)
    browser.until("timeline.boxes && timeline.boxes.length")

    def shown() -> tuple[float, float]:
        begin, end = browser.ask("[timeline.view.begin, timeline.view.end]")
        return begin, end

    whole = shown()
    browser.ask("timeline.place.focus()")
    browser.press("+")
    zoomed = shown()
    assert whole[0] < zoomed[0] < zoomed[1] < whole[1]
    browser.press("ArrowRight")
    moved = shown()
    assert moved[0] > zoomed[0]
    assert moved[1] - moved[0] == pytest.approx(zoomed[1] - zoomed[0])
    browser.press("0")
    assert shown() == whole

    browser.ask("timeline.place.scrollIntoView()")
    x, y = browser.ask(
        "(box => [box.x + box.width / 2, box.y + 40])(timeline.place.getBoundingClientRect())"
    )
    browser.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
    browser.until("!byId('tip').hidden")
    assert "rows = sorted(rows)" in browser.ask("byId('tip').textContent")
    browser.call("Input.dispatchMouseEvent", type="mouseWheel", x=x, y=y, deltaX=0, deltaY=-300)
    browser.until(f"timeline.view.end < {whole[1]}")

    assert "Report.render" in browser.ask("byId('flame').textContent")
    # The two roots stand apart.
    rows_of_flame = browser.ask(
        "[...byId('flame').children].map(row => [row.className, row.textContent])"
    )
    gap = rows_of_flame.index(["flame-gap", ""])
    assert rows_of_flame[0] == ["flame-row", "all handlers"]
    assert rows_of_flame[gap + 1] == ["flame-row", "blocked turns, by stack"]
    assert "protocolI/O of the loop1" in browser.ask("byId('table').textContent")
    rows = "document.querySelectorAll('#table tbody tr').length"
    assert browser.ask(rows) == 11
    browser.ask(
        "(field => { field.value = 'sleeper'; field.dispatchEvent(new Event('input')) })"
        "(byId('table-filter'))"
    )
    browser.until(f"{rows} === 1")
    before = browser.ask("getComputedStyle(document.body).backgroundColor")
    browser.click("#theme")
    browser.until(f"getComputedStyle(document.body).backgroundColor !== '{before}'")
    assert browser.errors == []
    browser.show((tmp_path / "run.html").as_uri(), width=390, dark=True)
    browser.until("timeline.boxes && timeline.boxes.length")
    assert browser.ask("document.documentElement.scrollWidth") <= 390
    assert browser.errors == []


def test_marks_are_on_the_timeline(browser, tmp_path):
    ring, more = Ring(), []
    ring.put("RUN_BEGIN", 4242)
    ring.put("MARK", ring.intern("string", "cache filled"))
    echo(ring, more)
    ring.put("RUN_END")
    write_recording(tmp_path / "run.noria", {0: ring}, more)
    assert run(["report", str(tmp_path / "run.noria")]) == 0
    browser.show((tmp_path / "run.html").as_uri(), width=1200)
    browser.until("timeline.boxes && timeline.boxes.length")
    described = (
        "timeline.lanes.filter(lane => lane.label === 'marks').map(lane => lane.describe(0, 1))"
    )
    assert browser.ask(described) == ["cache filled"]
    assert browser.errors == []
