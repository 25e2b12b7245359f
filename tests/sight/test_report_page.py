"""The page of a recording as a browser shows it: the timeline's zoom, the flame graph, tables."""

from __future__ import annotations

import pytest

pytest.importorskip("jinja2", reason="the page needs jinja2, part of noria[cli]")

from noria.cli.main import run
from noria.sight.recording import observe_recording
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


def touch(browser, *moves: list[tuple[float, float]]) -> None:
    """Put fingers down at the first places, move them to the others, and lift them."""
    for kind, points in zip(
        ["touchStart", *["touchMove"] * (len(moves) - 1), "touchEnd"], [*moves, []], strict=True
    ):
        places = [{"x": x, "y": y, "id": number} for number, (x, y) in enumerate(points)]
        browser.call("Input.dispatchTouchEvent", type=kind, touchPoints=places)


def test_fingers_zoom_move_and_tap(browser, tmp_path):
    synthetic_recording(tmp_path / "run.noria")
    assert run(["report", str(tmp_path / "run.noria")]) == 0
    browser.call("Emulation.setTouchEmulationEnabled", enabled=True, maxTouchPoints=2)
    browser.show((tmp_path / "run.html").as_uri(), width=390, height=800)
    browser.until("timeline.boxes && timeline.boxes.length")
    browser.ask("timeline.place.scrollIntoView()")
    box = "timeline.place.getBoundingClientRect()"
    x, y = browser.ask(f"(box => [box.x + box.width / 2, box.y + 60])({box})")

    def shown() -> tuple[float, float]:
        begin, end = browser.ask("[timeline.view.begin, timeline.view.end]")
        return begin, end

    def time_at(place: float) -> float:
        return browser.ask(
            f"timeline.view.begin + (timeline.view.end - timeline.view.begin)"
            f" * ({place} - {box}.x) / timeline.place.clientWidth"
        )

    whole = shown()
    between = time_at(x)
    touch(browser, *([(x - 20 - 16 * i, y), (x + 20 + 16 * i, y)] for i in range(6)))
    browser.until(f"timeline.view.end - timeline.view.begin < {(whole[1] - whole[0]) / 4}")
    assert time_at(x) == pytest.approx(between, abs=(whole[1] - whole[0]) / 100)
    assert browser.ask("visualViewport.scale") == 1
    zoomed = shown()
    under = time_at(x)
    touch(browser, *([(x - 20 * i, y)] for i in range(6)))
    browser.until(f"timeline.view.begin > {zoomed[0]}")
    moved = shown()
    assert moved[1] - moved[0] == pytest.approx(zoomed[1] - zoomed[0])
    # The browser keeps some pixels until it knows that it is no scroll of the page.
    assert time_at(x - 100) == pytest.approx(under, abs=(moved[1] - moved[0]) / 10)
    touch(browser, *([(x - 50 + 10 * i, y), (x + 50 + 10 * i, y)] for i in range(6)))
    browser.until(f"timeline.view.begin < {moved[0]}")
    # A vertical one scrolls the page.
    before, scrolled = shown(), browser.ask("scrollY")
    touch(browser, *([(x, y + 200 - 20 * i)] for i in range(6)))
    browser.until(f"scrollY > {scrolled}")
    assert shown() == before
    assert browser.ask("byId('tip').hidden")
    browser.ask("timeline.place.scrollIntoView()")
    touch(browser, [(x, y)])
    browser.until("!byId('tip').hidden")
    assert "rows = sorted(rows)" in browser.ask("byId('tip').textContent")
    touch(browser, [(x, y)], [(x + 30, y)])
    browser.until("byId('tip').hidden")
    assert browser.errors == []


def test_the_utilization_is_a_graph(browser, tmp_path):
    synthetic_recording(tmp_path / "run.noria")
    assert run(["report", str(tmp_path / "run.noria")]) == 0
    browser.show((tmp_path / "run.html").as_uri(), width=1200)
    browser.until("timeline.boxes && timeline.boxes.length")
    lane = "timeline.lanes.find(lane => lane.label === 'utilisation')"
    loop = observe_recording(tmp_path / "run.noria").loops[0]
    busy, waiting = (browser.ask(f"{lane}.describe({at}, 1)") for at in (3e5, 51e4))
    assert busy.startswith("utilisation 100% in ")
    assert waiting.startswith("utilisation 0% in ")
    assert busy.endswith(f"\n{loop.utilization:.0%} in all")
    browser.ask("timeline.view.set(200_000, 300_000)")
    browser.until(f"{lane}.describe(250_000, 1).endsWith('100% of the time that is shown')")
    # Below the line, the graph is filled with the color of work, transparent.
    filled = browser.ask(f"""(() => {{
        const box = timeline.boxes.find(box => box.lane === {lane});
        const pen = timeline.place.querySelector('canvas').getContext('2d');
        const found = pen.getImageData(600, box.top, 1, box.lane.height).data;
        return found.filter((value, i) => i % 4 === 3 && value > 50 && value < 80).length;
    }})()""")
    assert filled > 40
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
