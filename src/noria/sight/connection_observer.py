"""The connections of a loop, merged from its records and from snapshots."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from noria._core.recorder.analysis import Analysis
from noria.sight.json_values import fill, integer
from noria.sight.names import Names
from noria.sight.observation import ConnectionFigures, Place

MAX_WAITING = 20_000  # connections of which unread and unsent bytes are remembered

_RECORDED = [
    "fd",
    "opened",
    "closed",
    "error",
    "bytes_in",
    "bytes_out",
    "receives",
    "sends",
    "blocked_sends",
    "last_received",
    "last_sent",
    "unsent",
    "most_unsent",
    "reading_paused_since",
    "writing_paused_since",
    "longest_reading_pause",
    "longest_writing_pause",
    "written_while_paused",
    "repeated_sends",
]
_OF_SNAPSHOT = [
    "peer",
    "local",
    "protocol",
    "tls",
    "unread",
    "unsent",
    "unsent_in_kernel",
    "buffered",
]


@dataclass(slots=True)
class _Seen:
    """Unread and unsent bytes of a connection over several snapshots."""

    since: int = 0  # 0: there are none
    most: int = 0
    longest: int = 0
    unsent: int = 0
    most_unsent: int = 0
    writing_paused: bool = False
    written_while_paused: int = 0

    def see_unsent(self, unsent: int, fields: dict[str, Any]) -> None:
        """Take the unsent bytes of the next snapshot."""
        # Of what the layer of TLS keeps, the loop has no record.
        if fields.get("tls") and self.writing_paused and unsent > self.unsent:
            self.written_while_paused += unsent - self.unsent
        self.unsent = unsent
        self.most_unsent = max(self.most_unsent, unsent)
        self.writing_paused = fields.get("writing_paused") is True


class ConnectionObserver:
    """Merges the connections of one loop."""

    def __init__(self, analysis: Analysis, names: Names) -> None:
        self._analysis = analysis
        self._names = names
        self._snapshot: dict[int, dict[str, Any]] = {}
        self._time = 0
        self._alone = True
        self._seen: dict[tuple[int, int], _Seen] = {}  # by fd and opened
        self._described: dict[tuple[int, int], dict[str, Any]] = {}  # peers of closed ones, too

    def take_snapshot(self, connections: list[dict[str, Any]], time: int, alone: bool) -> None:
        """Take the connections of a snapshot; *alone*: the process has no other loop."""
        self._snapshot = {}
        self._time = time
        self._alone = alone
        for fields in connections:
            fd = integer(fields.get("fd", -1))
            if fd < 0:
                continue
            self._snapshot[fd] = fields
            opened, last_received = self._analysis.connection_state(fd) or (0, 0)
            key = fd, opened
            self._described[key] = fields
            unread = integer(fields.get("unread"))
            unsent = integer(fields.get("unsent"))
            known = self._seen.get(key)
            if known is None:
                if unread <= 0 and unsent <= 0:
                    continue
                known = self._seen[key] = _Seen()
            known.most = max(known.most, unread)
            known.see_unsent(unsent, fields)
            if unread <= 0:
                known.since = 0
                continue
            known.since = max(known.since or time, min(last_received, time))
            known.longest = max(known.longest, time - known.since)
        while len(self._seen) > MAX_WAITING:
            del self._seen[next(iter(self._seen))]
        while len(self._described) > MAX_WAITING:
            del self._described[next(iter(self._described))]

    def figures(self, limit: int) -> list[ConnectionFigures]:
        """Return the connections: the open ones, then the closed ones, the last closed first."""
        result: list[ConnectionFigures] = []
        rest = dict(self._snapshot)
        for raw in self._analysis.connections(limit):
            connection = ConnectionFigures(raw["fd"])
            for name in _RECORDED:
                setattr(connection, name, raw[name])
            connection.protocol = self._names.text(raw["protocol"])
            connection.datagrams = raw["datagrams"]
            connection.tls = raw["tls"]
            connection.opened_at = self._place(raw["opened_at"])
            connection.paused_at = self._place(raw["paused_at"])
            connection.written_at = self._place(raw["written_at"])
            if raw["user"]:
                connection.user = self._names.place(raw["user"])
            if raw["sender"]:
                connection.sender = self._names.place(raw["sender"][1])
            self._merge(connection, rest)
            result.append(connection)
        known = len(result) < limit and self._alone
        for fd, fields in rest.items():
            if known or "protocol" in fields:
                connection = ConnectionFigures(fd)
                self._fill(connection, fields)
                self._set_seen(connection)
                result.append(connection)
        result.sort(key=lambda each: (each.closed != 0, -each.closed))
        return result

    def _place(self, caller: tuple[int, int] | None) -> Place | None:
        return self._names.place(*caller) if caller is not None else None

    def _merge(self, connection: ConnectionFigures, rest: dict[int, dict[str, Any]]) -> None:
        """Add what snapshots say of a connection; remove it from *rest*, those left to add."""
        if connection.closed:
            fields = self._described.get((connection.fd, connection.opened))
            if fields is not None:
                fill(connection, fields, "peer", "local", "protocol", "tls", "buffered")
                _fill_user(connection, fields)
            if connection.closed >= self._time:
                rest.pop(connection.fd, None)
        elif connection.opened <= self._time:
            fields = rest.pop(connection.fd, None)
            if fields is not None:
                self._fill(connection, fields)
        else:
            rest.pop(connection.fd, None)
        self._set_seen(connection)

    def _fill(self, connection: ConnectionFigures, fields: dict[str, Any]) -> None:
        unsent = connection.unsent
        fill(connection, fields, *_OF_SNAPSHOT)
        _fill_user(connection, fields)
        if connection.last_sent > self._time and not connection.tls:
            connection.unsent = unsent
        if fields.get("reading_paused") is True and not connection.reading_paused_since:
            connection.reading_paused_since = self._analysis.begin
        if fields.get("writing_paused") is True and not connection.writing_paused_since:
            connection.writing_paused_since = self._analysis.begin

    def _set_seen(self, connection: ConnectionFigures) -> None:
        known = self._seen.get((connection.fd, connection.opened))
        if known is None:
            return
        connection.most_unread = known.most
        connection.longest_unread = known.longest
        connection.most_unsent = max(connection.most_unsent, known.most_unsent)
        connection.written_while_paused += known.written_while_paused
        if not connection.closed and connection.unread:
            if connection.last_received > self._time:
                connection.unread = 0  # received since; the next snapshot says what is left
            else:
                connection.unread_since = known.since


def _fill_user(connection: ConnectionFigures, fields: dict[str, Any]) -> None:
    """Set the user; null says that the connection has none now, whatever the records say."""
    fill(connection, fields, "handler")
    if "user" in fields:
        connection.user = None
        fill(connection, fields, "user")
