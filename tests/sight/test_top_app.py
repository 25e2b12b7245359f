"""The terminal application of `noria top`, driven by keys and the mouse."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

pytest.importorskip("textual")

from textual.pilot import Pilot

from noria.sight.top import app as app_module
from noria.sight.top.app import TopApp
from noria.sight.top.processes import CannotObserve, Process
from noria.sight.top.screens import ChoiceScreen, LinesScreen
from noria.sight.top.session import Session
from support.observations import ScriptedSource

DEADLINE = 20.0  # seconds


async def until(pilot: Pilot, condition: Callable[[], object]) -> None:
    """Wait until *condition* holds."""
    async with asyncio.timeout(DEADLINE):
        while not condition():
            await pilot.pause(0.01)


def screen_text(app: TopApp) -> list[str]:
    """Return the lines on the screen."""
    height = app.size.height
    strips = app.screen._compositor.render_strips()
    return ["".join(segment.text for segment in strip) for strip in strips][:height]


def drive(
    test: Callable[[TopApp, Pilot, ScriptedSource], Awaitable[None]],
    size: tuple[int, int] = (80, 24),
) -> None:
    """Run *test* with an application that has shown its first observation."""

    async def run() -> None:
        source = ScriptedSource()
        source.step = 1
        session = Session(source, 3600.0)
        session.step()
        app = TopApp(session)
        async with app.run_test(size=size) as pilot:
            await until(pilot, lambda: app.shown() is not None and app.pane.grid.rows)
            await test(app, pilot, source)
        assert source.closed

    asyncio.run(run())


def keys_of(app: TopApp) -> list[str]:
    """Return the first column of the table."""
    return [app.pane.label(row.item) for row in app.pane.grid.rows]


def test_views_sorting_filter_and_details():
    async def test(app: TopApp, pilot: Pilot, source: ScriptedSource) -> None:
        await until(pilot, lambda: "utilisation    43.0%" in screen_text(app)[2])
        lines = screen_text(app)
        assert "4711 python -m chat" in lines[0]
        assert lines[0].rstrip().endswith("live")
        assert "1-6 views" in lines[-1]
        assert any("cache.py:47 Cache.expire" in line for line in lines)
        assert max(map(len, lines)) == 80

        # Each view has a key; its table has the focus.
        first = {
            "2": "main", "3": "192.0.2.5:50185", "4": "Cache.expire", "5": "write",
            "6": "task-waits-long", "1": "Room.broadcast",
        }  # fmt: skip
        for key, name in first.items():
            await pilot.press(key)
            assert keys_of(app)[0] == name
            assert app.focused is app.pane.grid
        await pilot.press("shift+tab")
        assert app.active == 5
        await pilot.press("tab", "tab")
        assert app.active == 1

        # Sorting, by keys and by a click on a title.
        await pilot.press("t")
        assert keys_of(app)[0] == "broadcast"
        await pilot.press("r")
        assert keys_of(app)[-1] == "broadcast"
        await pilot.press("greater_than_sign")
        assert app.pane.table.sort == "sched%"
        await pilot.press("less_than_sign", "less_than_sign")
        assert app.pane.table.sort == "state"
        await pilot.click(app.pane.grid, offset=(3, 0))
        assert app.pane.table.sort == "task"
        assert keys_of(app) == sorted(keys_of(app))
        await pilot.click(app.pane.grid, offset=(3, 0))
        assert keys_of(app) == sorted(keys_of(app), reverse=True)

        # Done tasks are hidden.
        assert not any(name.startswith("Task-3") for name in keys_of(app))
        await pilot.press("e")
        assert any(name.startswith("Task-3") for name in keys_of(app))

        # The filter works while it is typed, Enter keeps it, Escape clears it.
        await pilot.press("slash", *"save q", "space", "backspace", "backspace", "backspace")
        assert keys_of(app) == ["save-snapshot"]
        await pilot.press("enter")
        assert app.focused is app.pane.grid
        assert app.filter_input.has_class("open")

        # Details: of the row at the cursor, with its source line; Escape closes them.
        await pilot.press("enter")
        assert isinstance(app.screen, LinesScreen)
        text = "\n".join(screen_text(app))
        assert "Tasks: save-snapshot" in text
        assert "await loop.run_in_executor(None, write, data)" in text
        assert "awaited by" in text
        await pilot.press("2", "escape")
        assert not isinstance(app.screen, LinesScreen)
        assert app.pane.table.filter == "save"
        await pilot.press("escape")
        assert len(keys_of(app)) > 30

        await pilot.press("question_mark")
        assert "the next view" in "\n".join(screen_text(app))
        await pilot.press("escape")

        # The mouse chooses a view, and a row at its second click.
        await pilot.click(app.tab_bar, offset=(78, 0))
        await pilot.click(app.tab_bar, offset=(70, 0))
        assert app.active == 5
        await pilot.click(app.pane.grid, offset=(5, 2))
        assert app.pane.grid.cursor == 1
        await pilot.click(app.pane.grid, offset=(5, 2))
        assert isinstance(app.screen, LinesScreen)
        await pilot.press("escape", "q")

    drive(test)


def test_pausing_loops_dumps_and_the_end():
    async def test(app: TopApp, pilot: Pilot, source: ScriptedSource) -> None:
        session = app._session

        def observe() -> None:
            app.show_view(session.step())

        # The cursor follows its row.
        await pilot.press("2", "down", "down")
        chosen = app.pane.grid.selected.key
        observe()
        assert app.pane.grid.selected.key == chosen

        await pilot.press("space")
        held = app.shown().view
        observe()
        assert app.shown().view is held
        assert app.title_bar.state[0] == "paused"
        await pilot.press("space")
        assert app.shown().view is session.view

        await pilot.press("l")
        assert isinstance(app.screen, ChoiceScreen)
        await pilot.press("down", "enter")
        await until(pilot, lambda: not isinstance(app.screen, ChoiceScreen))
        assert app.shown().loop.id == 1
        assert keys_of(app) == ["push"]

        await pilot.press("d")
        await until(pilot, lambda: source.dumped)
        assert source.dumped.endswith(".noria")

        source.error = ConnectionResetError(104, "reset")
        observe()
        assert app.title_bar.state[0] == "connection reset by peer"
        source.has_ended = True
        observe()
        assert app.title_bar.state[0].startswith("ended at ")
        assert keys_of(app) == ["push"]  # the last figures stay

    drive(test, size=(200, 50))


def test_a_narrow_terminal_without_colours(monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")

    async def test(app: TopApp, pilot: Pilot, source: ScriptedSource) -> None:
        for key in "123456":
            await pilot.press(key)
            lines = screen_text(app)
            assert (max(map(len, lines)), len(lines)) == (30, 10)
            assert app.pane.grid.rows
        strips = app.screen._compositor.render_strips()
        filtered = [app._filters[-1].apply(list(strip), None) for strip in strips]
        colours = {
            colour and colour.is_default
            for line in filtered
            for segment in line
            if segment.style
            for colour in (segment.style.color, segment.style.bgcolor)
        }
        assert colours <= {True, None}
        await pilot.resize_terminal(120, 40)
        await until(pilot, lambda: max(map(len, screen_text(app))) == 120)

    drive(test, size=(30, 10))


def test_a_process_is_chosen(monkeypatch):
    found = [
        Process(11, "python one.py", 5.0, 1 << 20, "/run/11.sock"),
        Process(22, "python two.py", 9.0, 1 << 20, "/run/22.sock"),
    ]
    monkeypatch.setattr(app_module, "processes", lambda: found)
    source, asked = ScriptedSource(), []

    def connect(socket: str) -> Session:
        asked.append(socket)
        if len(asked) == 1:
            raise CannotObserve("it has just ended")
        return Session(source, 3600.0)

    async def run() -> None:
        app = TopApp(None, connect)
        async with app.run_test(size=(80, 24)) as pilot:
            await until(pilot, lambda: isinstance(app.screen, ChoiceScreen))
            await pilot.pause()
            assert any("python two.py" in line for line in screen_text(app))
            await pilot.press("enter")
            await until(pilot, lambda: asked and isinstance(app.screen, ChoiceScreen))
            await pilot.press("down", "enter")
            await until(pilot, lambda: app.shown() is not None)
            assert asked == ["/run/11.sock", "/run/22.sock"]

    asyncio.run(run())
