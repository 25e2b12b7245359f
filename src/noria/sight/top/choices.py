"""The tables from which a process or a loop is chosen."""

from __future__ import annotations

from dataclasses import dataclass

from noria.sight.observation import LoopFigures
from noria.sight.top import units
from noria.sight.top.lines import utilization_level
from noria.sight.top.processes import Process
from noria.sight.top.rates import LoopRates
from noria.sight.top.session import View
from noria.sight.top.tables import DIM, PLAIN, Column, Table


def process_table() -> Table[Process]:
    """Return the table of processes that can be observed, the newest first."""
    return Table(
        [
            Column("pid", "pid", 8, lambda each: (str(each.pid), PLAIN), lambda each: each.pid),
            Column(
                "age",
                "age",
                6,
                lambda each: (units.duration(each.age * 1e9), PLAIN),
                lambda each: each.age,
                priority=2,
            ),
            Column(
                "memory",
                "memory",
                7,
                lambda each: (units.size(each.memory), PLAIN),
                lambda each: each.memory,
                priority=3,
            ),
            Column(
                "command",
                "command",
                20,
                lambda each: (each.command, PLAIN),
                lambda each: each.command,
                flexible=2,
                right=False,
            ),
            Column(
                "socket",
                "socket",
                24,
                lambda each: (each.socket, DIM),
                lambda each: each.socket,
                priority=4,
                flexible=1,
                right=False,
            ),
        ],
        "age",
        lambda each: f"{each.pid} {each.command}",
        descending=False,
    )


@dataclass(slots=True)
class LoopItem:
    """A loop, and what it did in the last interval."""

    loop: LoopFigures
    rates: LoopRates


def loop_items(view: View) -> list[LoopItem]:
    """Return the loops of a process."""
    return [LoopItem(loop, view.rates[loop.id]) for loop in view.observation.loops]


def loop_table() -> Table[LoopItem]:
    """Return the table of a process's loops."""
    return Table(
        [
            Column(
                "loop",
                "loop",
                5,
                lambda item: (str(item.loop.id), PLAIN),
                lambda item: item.loop.id,
            ),
            Column(
                "model",
                "model",
                12,
                lambda item: (item.loop.model, PLAIN),
                lambda item: item.loop.model,
                priority=3,
                right=False,
            ),
            Column(
                "thread",
                "thread",
                14,
                lambda item: (units.clean(item.loop.thread_name), PLAIN),
                lambda item: item.loop.thread_name,
                flexible=1,
                right=False,
            ),
            Column(
                "utilization",
                "busy",
                6,
                lambda item: (
                    units.share(item.rates.utilization) if item.loop.running else "ended",
                    utilization_level(item.rates.utilization) if item.loop.running else DIM,
                ),
                lambda item: item.rates.utilization,
            ),
            Column(
                "events",
                "events/s",
                8,
                lambda item: (units.number(item.rates.events), PLAIN),
                lambda item: item.rates.events,
                priority=2,
            ),
            Column(
                "tasks",
                "tasks",
                7,
                lambda item: (units.known(item.loop.tasks_alive), PLAIN),
                lambda item: item.loop.tasks_alive or 0,
                priority=4,
            ),
            Column(
                "connections",
                "connections",
                11,
                lambda item: (units.number(item.loop.connections_open), PLAIN),
                lambda item: item.loop.connections_open,
                priority=5,
            ),
        ],
        "loop",
        lambda item: f"{item.loop.id} {item.loop.model} {item.loop.thread_name}",
        descending=False,
    )
