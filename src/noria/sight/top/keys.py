"""The keys of `noria top`, and what they do."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Key:
    """A key: `keys` are textual's names of it, `shown` is the name on the screen."""

    keys: str
    shown: str
    action: str
    name: str  # in the last line
    explanation: str
    priority: int = 9  # the highest numbers are dropped first from the last line; 10: not in it


KEYS = (
    Key(
        "1,2,3,4,5,6",
        "1-6",
        "",
        "views",
        "the loop, tasks, connections, timers, files and executor, findings",
        2,
    ),
    Key("tab", "Tab", "next_pane(1)", "", "the next view", 10),
    Key("shift+tab", "Shift-Tab", "next_pane(-1)", "", "the view before", 10),
    Key("enter", "Enter", "", "detail", "everything about the selected row; Escape closes it", 3),
    Key(
        "slash",
        "/",
        "filter",
        "filter",
        "show only rows with all words that are typed; Enter keeps the filter, Escape clears it",
        4,
    ),
    Key("less_than_sign,comma", "<", "sort(-1)", "", "sort by the column to the left", 10),
    Key("greater_than_sign,full_stop", ">", "sort(1)", "", "sort by the column to the right", 10),
    Key("", "<>", "", "sort", "", 5),
    Key("r", "r", "reverse", "reverse", "sort the other way round", 8),
    Key("t", "t", "tree", "tree", "tasks as a tree or as a flat list", 7),
    Key(
        "e",
        "e",
        "ended",
        "ended",
        "show also tasks that are done and connections that are closed",
        9,
    ),
    Key("l", "l", "loops", "loop", "choose the loop, if the process has several", 6),
    Key(
        "space",
        "Space",
        "pause",
        "pause",
        "hold the screen still; the process is observed meanwhile",
        2,
    ),
    Key(
        "d",
        "d",
        "dump",
        "dump",
        "have the process write its last seconds to a file for 'noria report'",
        9,
    ),
    Key("question_mark,h", "?", "help", "help", "this page", 1),
    Key("q,ctrl+c", "q", "quit", "quit", "leave; the process continues", 1),
)


def shown_keys(width: int) -> list[Key]:
    """Return the keys whose names fit in one line of *width* characters, in order."""
    kept = [key for key in KEYS if key.name and key.priority < 10]
    while len(kept) > 1 and sum(len(f"{key.shown} {key.name}") + 3 for key in kept) > width:
        kept.remove(max(kept, key=lambda key: key.priority))
    return kept
