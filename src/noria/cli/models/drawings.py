"""A drawing for each model: process and kernel as lanes, time from left to right.

After Stevens, Fenner and Rudoff, UNIX Network Programming vol. 1, figures 6.1 to 6.5. Waiting is
hatched and copying solid; an arrow down is a system call, an arrow up its return. Plain text, at
most 78 columns wide.
"""

from collections.abc import Callable, Sequence

WIDTH = 78
LEGEND = "░ blocked, waiting   ▒ running, polling   █ copying   ▼ system call   ▲ return"

_BLOCKED, _POLLING, _COPY = "░", "▒", "█"


class _Lanes:
    """A grid of characters with a lane for the process, one for the kernel, and arrows between."""

    CALLS, PROCESS, DOWN, UP, KERNEL, ARRIVE, EVENT, PHASES = range(8)
    END = WIDTH - 1

    def __init__(self, process: str = "process", rows: int = 8) -> None:
        self._grid = [[" "] * WIDTH for _ in range(rows)]
        self.text(self.PROCESS, 0, process)
        self.text(self.KERNEL, 0, "kernel")

    def text(self, row: int, column: int, words: str) -> None:
        """Write *words*, starting at *column*."""
        for place, character in enumerate(words, column):
            self._grid[row][place] = character

    def centred(self, row: int, column: int, words: str) -> None:
        """Write *words* centred at *column*, inside the drawing."""
        start = min(column - len(words) // 2, WIDTH - len(words))
        self.text(row, start, words)

    def bar(self, row: int, start: int, end: int, fill: str, words: str = "") -> None:
        """Fill a row from *start* to *end* (excluded), with *words* in the middle."""
        self.text(row, start, fill * (end - start))
        if words:
            self.centred(row, (start + end) // 2, f" {words} ")

    def call(self, column: int, name: str, words: str = "") -> None:
        """Draw a system call from process to kernel, with its arguments."""
        self.centred(self.CALLS, column, name)
        self.text(self.PROCESS, column, "┬")
        self.text(self.DOWN, column, "│")
        self.text(self.UP, column, "▼")
        if words:
            self.text(self.DOWN, column + 2, words)

    def back(self, column: int, words: str = "") -> None:
        """Draw the return of a call, with its result."""
        self.text(self.PROCESS, column, "┬")
        self.text(self.DOWN, column, "▲")
        self.text(self.UP, column, "│")
        self.text(self.KERNEL, column, "┘")
        if words:
            self.centred(self.CALLS, column, words)

    def arrives(self, column: int, words: str = "data arrives") -> None:
        """Draw data that arrives from the network."""
        self.text(self.KERNEL, column, "┬")
        self.text(self.ARRIVE, column, "▲")
        self.centred(self.EVENT, column, words)

    def handler(self, column: int) -> None:
        """Draw the handler, which runs from *column* to the end."""
        self.bar(self.PROCESS, column, self.END, "─", "handler")
        self.text(self.PROCESS, self.END, "▶")

    def phase(self, start: int, end: int, words: str) -> None:
        """Name the columns from *start* to *end* (included) below the lanes."""
        self.bar(self.PHASES, start, end + 1, "─", words)
        self.text(self.PHASES, start, "├")
        self.text(self.PHASES, end, "┤")

    def __str__(self) -> str:
        return "\n".join("".join(row).rstrip() for row in self._grid)


def _blocking() -> str:
    lanes = _Lanes(rows=10)
    lanes.text(lanes.PROCESS, 9, "──")
    lanes.bar(lanes.PROCESS, 12, 44, _BLOCKED, "blocked in recv")
    lanes.bar(lanes.PROCESS, 44, 63, _COPY, "still in recv")
    lanes.call(11, "recv")
    lanes.bar(lanes.KERNEL, 11, 43, _BLOCKED, "no data yet")
    lanes.arrives(43)
    lanes.bar(lanes.KERNEL, 44, 63, _COPY, "copies")
    lanes.back(63, "n bytes")
    lanes.handler(64)
    lanes.phase(11, 43, "waiting")
    lanes.phase(44, 63, "copying")
    lanes.text(9, 0, "client 2")
    lanes.bar(9, 11, WIDTH, _BLOCKED, "connected, waits until client 1 disconnects")
    return str(lanes)


def _threaded() -> str:
    """The kernel lies between two threads, so that no arrow crosses a lane."""
    lanes = _Lanes("thread 1", rows=9)
    lanes.text(lanes.PROCESS, 9, "──")
    lanes.bar(lanes.PROCESS, 12, 36, _BLOCKED, "blocked in recv")
    lanes.bar(lanes.PROCESS, 36, 50, _COPY, "in recv")
    lanes.call(11, "recv")
    lanes.back(50, "n bytes")
    lanes.handler(51)
    lanes.bar(lanes.KERNEL, 11, WIDTH, "─")
    lanes.bar(lanes.KERNEL, 36, 50, _COPY, "for 1")
    lanes.bar(lanes.KERNEL, 56, 70, _COPY, "for 2")
    lanes.text(lanes.KERNEL, 50, "┘")
    lanes.text(lanes.KERNEL, 70, "┐")
    lanes.text(lanes.UP, 19, "data arrives (1) ──▶")
    lanes.text(lanes.ARRIVE, 39, "data arrives (2) ──▶")
    lanes.text(lanes.ARRIVE, 17, "▲")
    lanes.text(lanes.EVENT, 17, "│")
    lanes.text(lanes.ARRIVE, 70, "│")
    lanes.text(lanes.EVENT, 70, "▼")
    lanes.text(lanes.PHASES, 0, "thread 2")
    lanes.text(lanes.PHASES, 9, "────────┴")
    lanes.bar(lanes.PHASES, 18, 56, _BLOCKED, "blocked in recv")
    lanes.bar(lanes.PHASES, 56, 70, _COPY, "in recv")
    lanes.text(lanes.PHASES, 70, "┴─────▶")
    lanes.centred(8, 17, "recv")
    lanes.centred(8, 70, "n bytes")
    return str(lanes)


def _nonblocking() -> str:
    lanes = _Lanes()
    lanes.text(lanes.PROCESS, 9, "──")
    lanes.bar(lanes.PROCESS, 11, 47, _POLLING)
    lanes.bar(lanes.KERNEL, 11, 47, _BLOCKED)
    for column in (11, 23, 35):
        lanes.call(column, "recv")
        lanes.text(lanes.KERNEL, column, " EAGAIN ")
        lanes.back(column + 8)
    lanes.arrives(45)
    lanes.text(lanes.KERNEL, 46, "─")
    lanes.call(47, "recv")
    lanes.bar(lanes.PROCESS, 48, 65, _COPY, "in recv")
    lanes.bar(lanes.KERNEL, 47, 65, _COPY, "copies")
    lanes.back(65, "n bytes")
    lanes.handler(66)
    lanes.phase(11, 45, "waiting: polled repeatedly")
    lanes.phase(47, 65, "copying")
    return str(lanes)


def _multiplexed(call: str, arguments: str, after: str) -> str:
    """Draw select or poll: one call waits for all descriptors, another one copies."""
    lanes = _Lanes()
    lanes.text(lanes.PROCESS, 9, "──")
    lanes.bar(lanes.PROCESS, 12, 38, _BLOCKED, f"blocked in {call}")
    lanes.call(11, call, arguments)
    lanes.bar(lanes.KERNEL, 11, 32, _BLOCKED, "no data yet")
    lanes.arrives(32, "data arrives for one of them")
    lanes.text(lanes.KERNEL, 33, "─────")
    lanes.back(38, "1 is ready")
    lanes.bar(lanes.PROCESS, 39, 50, "─", after)
    lanes.call(50, "recv")
    lanes.bar(lanes.PROCESS, 51, 66, _COPY, "in recv")
    lanes.bar(lanes.KERNEL, 50, 66, _COPY, "copies")
    lanes.back(66, "n bytes")
    lanes.handler(67)
    lanes.phase(11, 32, "waiting")
    lanes.phase(50, 66, "copying")
    return str(lanes)


def _select() -> str:
    return _multiplexed("select", "every fd, as bits", "scan all")


def _poll() -> str:
    return _multiplexed("poll", "every fd, an array", "scan all")


def _epoll_lanes(last: str) -> _Lanes:
    lanes = _Lanes(rows=12)
    lanes.text(lanes.PROCESS, 9, "──")
    lanes.call(11, "epoll_ctl", "once")
    lanes.bar(lanes.PROCESS, 12, 22, "─")
    lanes.call(22, "")
    lanes.text(lanes.CALLS, 19, "epoll_wait")
    lanes.bar(lanes.PROCESS, 23, 44, _BLOCKED, "blocked")
    lanes.bar(lanes.KERNEL, 11, 39, _BLOCKED, "keeps the set")
    lanes.arrives(39, "data arrives: onto the ready list")
    lanes.text(lanes.KERNEL, 40, "────")
    lanes.back(44, "[fd 7]")
    lanes.bar(lanes.PROCESS, 45, 50, "─")
    lanes.call(50, "recv")
    lanes.bar(lanes.KERNEL, 50, 66, _COPY, "copies")
    lanes.bar(lanes.PROCESS, 51, 66, _COPY, last)
    lanes.back(66, "n bytes")
    lanes.handler(67)
    lanes.phase(22, 39, "waiting")
    lanes.phase(50, 66, "copying")
    return lanes


def _with_repeated_waits(lanes: _Lanes, results: Sequence[str]) -> str:
    """Add below the lanes what epoll_wait returns while data is unread."""
    rows = (
        ("unread bytes", ("0", "1024", "1024", "1024", "2048", "2048")),
        ("epoll_wait", results),
    )
    lanes.text(9, 0, "epoll_wait called repeatedly, without reading:")
    for row, (name, values) in enumerate(rows, 10):
        lanes.text(row, 2, name)
        for column, value in zip(range(22, 78, 9), values, strict=False):
            lanes.centred(row, column, value)
    return str(lanes)


def _epoll() -> str:
    return _with_repeated_waits(
        _epoll_lanes("in recv"), ("-", "ready", "ready", "ready", "ready", "ready")
    )


def _epoll_edge() -> str:
    lanes = _epoll_lanes("to EAGAIN")
    return _with_repeated_waits(lanes, ("-", "ready", "-", "-", "ready", "-"))


def _io_uring() -> str:
    lanes = _Lanes()
    lanes.text(lanes.PROCESS, 9, "─────")
    lanes.bar(lanes.PROCESS, 15, 62, "─", "free: other handlers run meanwhile")
    lanes.call(14, "io_uring_enter", "one call submits many requests")
    lanes.bar(lanes.KERNEL, 14, 40, _BLOCKED, "no data yet")
    lanes.arrives(40)
    lanes.bar(lanes.KERNEL, 41, 62, _COPY, "the kernel copies")
    lanes.back(62, "a completion: n bytes")
    lanes.handler(63)
    lanes.phase(14, 40, "waiting")
    lanes.phase(41, 62, "copying")
    return str(lanes)


def _simulated() -> str:
    return """\
seed ──▶ schedule    0.000 connect    0.250 data, 3 of 9 bytes    0.900 reset
                         │                │                           │
clock                0.000 ══ jumps ══▶ 0.250 ═════ jumps ═════════▶ 0.900
                         │                │                           │
                         ▼                ▼                           ▼
process              ─ handler ──────── handler ────────────────── handler ──▶
kernel               (not involved: no socket, no system call)"""


_DRAWINGS: dict[str, Callable[[], str]] = {
    "blocking": _blocking,
    "threaded": _threaded,
    "nonblocking": _nonblocking,
    "select": _select,
    "poll": _poll,
    "epoll": _epoll,
    "epoll-edge": _epoll_edge,
    "io_uring": _io_uring,
    "simulated": _simulated,
}


def drawing(name: str) -> str:
    """Return the drawing of the model *name*. Raises KeyError."""
    return _DRAWINGS[name]()


def auto(tried: Sequence[tuple[str, bool]]) -> str:
    """Return a drawing of how ``auto`` chooses: the models in order, and whether each works."""
    lines = []
    taken = False
    for place, (name, works) in enumerate(tried):
        lead = "auto ──▶ " if place == 0 else "         "
        here = "" if taken else "   ◀── here" if works else "   not here"
        lines.append(f"{lead}{name:10} works?  ── yes ──▶  chosen{here}")
        taken = taken or works
        if place < len(tried) - 1:
            lines += ["           │ no", "           ▼"]
    return "\n".join(lines)
