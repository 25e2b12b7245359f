"""The table of connections."""

from __future__ import annotations

from dataclasses import dataclass

from noria.sight.observation import ConnectionFigures, LoopFigures
from noria.sight.top import units
from noria.sight.top.cells import duration_cell, size_cell
from noria.sight.top.rates import ConnectionRates, LoopRates, connection_key
from noria.sight.top.tables import BAD, DIM, GOOD, PLAIN, WARN, Cell, Column, Table

UNREAD_WARN, UNREAD_BAD = 1_000_000_000, 5_000_000_000  # ns that data waits in the kernel
PAUSE_WARN = 1_000_000_000  # ns


@dataclass(slots=True)
class ConnectionItem:
    """A connection, and what it moved in the last interval."""

    connection: ConnectionFigures
    rates: ConnectionRates
    now: int

    @property
    def key(self) -> tuple[int, int]:
        """What identifies the connection in all observations."""
        return connection_key(self.connection)

    @property
    def label(self) -> str:
        """The peer's address, or the descriptor if there is none."""
        return units.clean(self.connection.peer) or f"fd {self.connection.fd}"

    @property
    def unread_for(self) -> int:
        """How long bytes have been waiting in the kernel, in ns."""
        since = self.connection.unread_since
        return max(self.now - since, 0) if since else 0

    @property
    def unsent(self) -> int:
        """Bytes that noria keeps, and those in the kernel."""
        return self.connection.unsent + self.connection.unsent_in_kernel

    @property
    def age(self) -> int:
        """Time between its opening and its end or now, in ns; 0 if unknown."""
        connection = self.connection
        return max((connection.closed or self.now) - connection.opened, 0) * bool(connection.opened)

    @property
    def quiet(self) -> int:
        """Time since bytes last moved, in ns."""
        last = max(self.connection.last_received, self.connection.last_sent)
        return max(self.now - last, 0) if last else self.age

    @property
    def pause(self) -> tuple[str, int]:
        """Which directions are paused ("", "read", "write", "both"), and for how many ns."""
        reading = self.connection.reading_paused_since
        writing = self.connection.writing_paused_since
        if not reading and not writing:
            return "", 0
        which = "both" if reading and writing else "read" if reading else "write"
        return which, max(self.now - min(filter(None, (reading, writing))), 0)


def connection_items(
    loop: LoopFigures, rates: LoopRates, now: int, ended: bool
) -> list[ConnectionItem]:
    """Return the connections of a loop; with *ended* also those that are closed."""
    none = ConnectionRates()
    return [
        ConnectionItem(connection, rates.connections.get(connection_key(connection), none), now)
        for connection in loop.connections
        if ended or not connection.closed
    ]


def _peer(item: ConnectionItem) -> Cell:
    return item.label, DIM if item.connection.closed else PLAIN


def _unread_style(item: ConnectionItem) -> str:
    waited = item.unread_for
    return BAD if waited >= UNREAD_BAD else WARN if waited >= UNREAD_WARN else PLAIN


def _unread(item: ConnectionItem) -> Cell:
    return size_cell(item.connection.unread, _unread_style(item))


def _unread_for(item: ConnectionItem) -> Cell:
    return duration_cell(item.unread_for, _unread_style(item))


def _unsent(item: ConnectionItem) -> Cell:
    return size_cell(item.unsent, WARN if item.connection.writing_paused_since else PLAIN)


def _paused(item: ConnectionItem) -> Cell:
    which, length = item.pause
    if not which:
        return "", PLAIN
    return f"{which} {units.duration(length)}", WARN if length >= PAUSE_WARN else PLAIN


def _tls(item: ConnectionItem) -> Cell:
    return units.clean(item.connection.tls).removeprefix("TLSv"), GOOD


def _rate(value: float) -> Cell:
    return (f"{units.size(value)}/s" if value else ""), PLAIN


def _user(item: ConnectionItem) -> str:
    connection = item.connection
    return units.line_and_function(connection.user or connection.handler or connection.opened_at)


def _text(item: ConnectionItem) -> str:
    connection = item.connection
    paused = f"paused {item.pause[0]}" if item.pause[0] else ""
    return (
        f"{item.label} {connection.local} {connection.protocol} {connection.tls} "
        f"{'tls' * bool(connection.tls)} fd{connection.fd} {paused} "
        f"{'unread' * bool(connection.unread)} {'unsent' * bool(item.unsent)} {_user(item)}"
    )


def connection_table() -> Table[ConnectionItem]:
    """Return the table, sorted by the bytes that wait in the kernel."""
    return Table(
        [
            Column(
                "peer",
                "peer",
                15,
                _peer,
                lambda item: item.label,
                flexible=2,
                right=False,
                explanation="address of the peer",
            ),
            Column(
                "in/s",
                "in/s",
                9,
                lambda item: _rate(item.rates.bytes_in),
                lambda item: item.rates.bytes_in,
                priority=3,
                explanation="bytes received a second",
            ),
            Column(
                "out/s",
                "out/s",
                9,
                lambda item: _rate(item.rates.bytes_out),
                lambda item: item.rates.bytes_out,
                priority=3,
                explanation="bytes sent a second",
            ),
            Column(
                "in",
                "in",
                7,
                lambda item: (units.size(item.connection.bytes_in), PLAIN),
                lambda item: item.connection.bytes_in,
                priority=6,
                explanation="bytes received",
            ),
            Column(
                "out",
                "out",
                7,
                lambda item: (units.size(item.connection.bytes_out), PLAIN),
                lambda item: item.connection.bytes_out,
                priority=6,
                explanation="bytes sent",
            ),
            Column(
                "unread",
                "unread",
                7,
                _unread,
                lambda item: item.connection.unread,
                explanation="bytes that the kernel has and the program has not received",
            ),
            Column(
                "for",
                "for",
                6,
                _unread_for,
                lambda item: item.unread_for,
                explanation="how long they have been waiting",
            ),
            Column(
                "unsent",
                "unsent",
                7,
                _unsent,
                lambda item: item.unsent,
                priority=2,
                explanation="bytes written that the peer has not taken",
            ),
            Column(
                "paused",
                "paused",
                11,
                _paused,
                lambda item: item.pause[1],
                priority=2,
                right=False,
                explanation="paused directions, and for how long",
            ),
            Column(
                "tls",
                "TLS",
                4,
                _tls,
                lambda item: item.connection.tls,
                priority=5,
                right=False,
                explanation="version of TLS",
            ),
            Column(
                "quiet",
                "quiet",
                6,
                lambda item: duration_cell(item.quiet),
                lambda item: item.quiet,
                priority=7,
                explanation="time since bytes last moved",
            ),
            Column(
                "age",
                "age",
                6,
                lambda item: duration_cell(item.age),
                lambda item: item.age,
                priority=4,
                explanation="time since it was opened",
            ),
            Column(
                "fd",
                "fd",
                5,
                lambda item: (str(item.connection.fd), DIM),
                lambda item: item.connection.fd,
                priority=9,
                explanation="file descriptor",
            ),
            Column(
                "local",
                "local",
                15,
                lambda item: (units.clean(item.connection.local), DIM),
                lambda item: item.connection.local,
                priority=9,
                right=False,
                explanation="address at this end",
            ),
            Column(
                "protocol",
                "protocol",
                14,
                lambda item: (units.clean(item.connection.protocol), PLAIN),
                lambda item: item.connection.protocol,
                priority=8,
                flexible=1,
                right=False,
                explanation="class of the protocol",
            ),
            Column(
                "user",
                "read by, or opened at",
                18,
                lambda item: (_user(item), DIM),
                _user,
                priority=10,
                flexible=2,
                right=False,
                explanation="the task or method that reads from it, or the line that opened it",
            ),
        ],
        "unread",
        _text,
    )
