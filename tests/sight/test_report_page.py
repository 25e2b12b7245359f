"""The page of a recording as a browser shows it: the timeline's zoom, the flame graph, tables."""

from __future__ import annotations

import pytest

pytest.importorskip("jinja2", reason="the page needs jinja2, part of noria[cli]")

from noria.cli.main import run
from support.chromium import PROGRAM, Browser
from support.recordings import synthetic_recording

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
