"""Connections that stand still, grow or leak."""

from __future__ import annotations

from collections.abc import Iterable

from noria.sight.findings import blocked as blocks
from noria.sight.findings import places
from noria.sight.findings.finding import ERROR, Finding
from noria.sight.findings.thresholds import Thresholds
from noria.sight.findings.units import duration, plural, size
from noria.sight.observation import ConnectionFigures, LoopFigures, Place

_Key = tuple[str, str, int]

# Connections that were closed this long before the end were closed by the end of the program.
_TEARDOWN_NS = 300_000_000
# A leak goes on: the openings are spread over at least this share of the time.
_SPREAD = 0.3
# Connections of a protocol that needs no task, such as one that waits for the peer's messages, leak
# only if the last one was opened in this share of the time before the end.
_STILL_OPENING = 0.5
# Of the connections opened at one line, at most this share may be closed again.
_CLOSED = 0.1

_CLOSE_STREAMS = (
    "Close each connection in a finally block or with `async with`: writer.close() and `await "
    "writer.wait_closed()`; with a pool, return it on every path."
)
_CLOSE_CLIENTS = (
    "Create one client (httpx.AsyncClient, aiohttp.ClientSession) and share it, or close each one "
    "with `async with`; close a transport of your own in a finally block."
)


def find(loop: LoopFigures, thresholds: Thresholds) -> list[Finding]:
    """Return the findings of a loop's connections."""
    unread = _unread_connections(loop, thresholds)
    found = _sending(loop, thresholds, {(conn.peer, conn.local) for conn in unread})
    found += _receiving(loop, unread)
    return found + _leaks(loop, thresholds)


def _sending(
    loop: LoopFigures, thresholds: Thresholds, unread: set[tuple[str, str]]
) -> list[Finding]:
    """`unread`: (peer, local) of the connections that do not read; their other ends cannot send."""
    growing: dict[_Key, list[ConnectionFigures]] = {}
    slow: dict[_Key, list[ConnectionFigures]] = {}
    for conn in loop.connections:
        if conn.written_while_paused >= thresholds.send_buffer:
            growing.setdefault(places.key(conn.written_at), []).append(conn)
        elif (
            conn.longest_writing_pause >= thresholds.slow_client * 1e9 + _blocked(loop, conn)
            and (conn.local, conn.peer) not in unread
        ):
            slow.setdefault(places.key(_waits_at(conn)), []).append(conn)
    return [_growing(loop, conns) for conns in growing.values()] + [
        _slow(loop, conns) for conns in slow.values()
    ]


def _growing(loop: LoopFigures, conns: list[ConnectionFigures]) -> Finding:
    worst = max(conns, key=lambda conn: conn.most_unsent)
    return Finding(
        kind="send-buffer-growing",
        title=f"{size(worst.most_unsent)} are kept unsent for {_peers(conns)}",
        evidence=[
            f"{size(worst.written_while_paused)} were written to {_peer(worst)} after "
            f"pause_writing; the program kept up to {size(worst.most_unsent)} of it in memory",
            f"the peer has received {size(worst.bytes_out - worst.unsent_in_kernel)} so far",
        ],
        place=worst.written_at or _waits_at(worst),
        advice="Wait after writing: `await writer.drain()`; in a protocol stop at pause_writing "
        "until resume_writing. Close the connections of clients that stay behind.",
        severity=ERROR,
        loop=loop.id,
        data={
            "connections": len(conns),
            "most_unsent": worst.most_unsent,
            "written_while_paused": worst.written_while_paused,
        },
    )


def _slow(loop: LoopFigures, conns: list[ConnectionFigures]) -> Finding:
    worst = max(conns, key=lambda conn: conn.longest_writing_pause)
    evidence = [
        f"writing to {_peer(worst)} was paused for {duration(worst.longest_writing_pause)}: "
        f"{size(worst.most_unsent)} were unsent",
    ]
    if worst.unsent_in_kernel:
        evidence.append(f"{size(worst.unsent_in_kernel)} more wait in the kernel for the peer")
    return Finding(
        kind="slow-client",
        title=f"{_peers(conns)} did not read for {duration(worst.longest_writing_pause)}",
        evidence=evidence,
        place=_waits_at(worst),
        advice="Limit the wait: `async with asyncio.timeout(...): await writer.drain()`, then "
        "transport.abort(); do not let a slow client hold a lock or the work for others.",
        loop=loop.id,
        data={
            "connections": len(conns),
            "longest_pause": worst.longest_writing_pause,
            "most_unsent": worst.most_unsent,
        },
    )


def _unread_connections(loop: LoopFigures, thresholds: Thresholds) -> list[ConnectionFigures]:
    """The connections whose data waited long, in the kernel or in a StreamReader."""
    found = []
    for conn in loop.connections:
        blocked = _blocked(loop, conn)
        paused = conn.longest_reading_pause >= thresholds.reading_paused * 1e9 + blocked
        if (paused and (conn.buffered or conn.most_unread)) or (
            conn.longest_unread >= thresholds.unread * 1e9 + blocked
        ):
            found.append(conn)
    return found


def _blocked(loop: LoopFigures, conn: ConnectionFigures) -> int:
    """The ns for which the loop could not handle a connection: not that connection's fault."""
    return blocks.longest(loop, conn.opened)


def _receiving(loop: LoopFigures, conns: list[ConnectionFigures]) -> list[Finding]:
    paused: dict[_Key, list[ConnectionFigures]] = {}
    unread: dict[_Key, list[ConnectionFigures]] = {}
    for conn in conns:
        if conn.longest_reading_pause and conn.paused_at is not None and not conn.buffered:
            paused.setdefault(places.key(conn.paused_at), []).append(conn)
        else:
            unread.setdefault(places.key(_reads_at(conn)), []).append(conn)
    return [_paused(loop, each) for each in paused.values()] + [
        _unread(loop, each) for each in unread.values()
    ]


def _paused(loop: LoopFigures, conns: list[ConnectionFigures]) -> Finding:
    worst = max(conns, key=lambda conn: conn.longest_reading_pause)
    now = "still " if worst.reading_paused_since and not worst.closed else ""
    return Finding(
        kind="reader-paused",
        title=f"reading from {_peers(conns)} is paused while data waits",
        evidence=[
            f"reading from {_peer(worst)} was {now}paused for "
            f"{duration(worst.longest_reading_pause)}, without a resume_reading",
            f"meanwhile {size(worst.most_unread)} waited in the kernel",
        ],
        place=worst.paused_at,
        advice="Call transport.resume_reading() on every path, also after an error or a "
        "cancellation; with streams, flow control is done for you.",
        severity=ERROR,
        loop=loop.id,
        data={
            "connections": len(conns),
            "longest_pause": worst.longest_reading_pause,
            "most_unread": worst.most_unread,
        },
    )


def _unread(loop: LoopFigures, conns: list[ConnectionFigures]) -> Finding:
    worst = max(conns, key=lambda conn: conn.longest_unread)
    since = max(worst.longest_unread, worst.longest_reading_pause)
    evidence = []
    if worst.buffered:
        evidence.append(
            f"the StreamReader of {_peer(worst)} keeps {size(worst.buffered)}: its limit, so "
            "reading is paused"
        )
    if worst.most_unread:
        evidence.append(
            f"{size(worst.most_unread)} from {_peer(worst)} waited in the kernel for "
            f"{duration(since)}"
        )
    if _user(worst) is not None:
        evidence.append("the task that has the connection waits for something else, see above")
    return Finding(
        kind="unread-data",
        title=f"no code reads what {_peers(conns)} sent",
        evidence=evidence,
        place=_reads_at(worst),
        advice="Read until the end (`await reader.read()`), also answers that are not needed; or "
        "close the connection.",
        loop=loop.id,
        data={
            "connections": len(conns),
            "unread": worst.most_unread,
            "buffered": worst.buffered,
            "since": since,
        },
    )


def _leaks(loop: LoopFigures, thresholds: Thresholds) -> list[Finding]:
    groups: dict[tuple[_Key, str], list[ConnectionFigures]] = {}
    for conn in loop.connections:
        # An accepted connection of a protocol: its peer decides how long it lasts.
        accepted_stream = "StreamReader" in conn.protocol and conn.handler is None
        if not conn.datagrams and (conn.opened_at is not None or accepted_stream):
            place = conn.opened_at or Place(conn.protocol)
            # A pool of a library keeps some for each peer.
            peer = conn.peer if conn.handler is not None else ""
            groups.setdefault((places.key(place), peer), []).append(conn)
    return [
        _leak(loop, conns, leaked)
        for conns in groups.values()
        if (leaked := _leaked(loop, conns, thresholds))
    ]


def _leaked(
    loop: LoopFigures, conns: list[ConnectionFigures], thresholds: Thresholds
) -> list[ConnectionFigures]:
    """Those of one line's connections that are open, idle and used by no task, if they leak."""
    newest = max(conn.opened for conn in conns)
    idle = [
        conn
        for conn in conns
        if _user(conn) is None
        # A pool would have used it, and not opened another one.
        and _last_used(conn) <= newest
        and not _closed_early(loop, conn)
        and _idle(loop, conn) >= thresholds.leaked_idle * 1e9
    ]
    if len(idle) < thresholds.leaked:
        return []
    observed = loop.end - loop.begin
    if conns[0].handler is not None and newest < loop.end - _STILL_OPENING * observed:
        return []
    closed = sum(_closed_early(loop, conn) for conn in conns)
    opened = [conn.opened for conn in idle]
    # What is opened at the start and then kept is a pool.
    spread = max(opened) - min(opened) >= _SPREAD * observed
    return idle if spread and closed <= _CLOSED * len(conns) else []


def _closed_early(loop: LoopFigures, conn: ConnectionFigures) -> bool:
    return bool(conn.closed) and loop.end - conn.closed > _TEARDOWN_NS


def _idle(loop: LoopFigures, conn: ConnectionFigures) -> int:
    return (conn.closed or loop.end) - _last_used(conn)


def _last_used(conn: ConnectionFigures) -> int:
    return max(conn.opened, conn.last_received, conn.last_sent)


def _leak(
    loop: LoopFigures, conns: list[ConnectionFigures], leaked: list[ConnectionFigures]
) -> Finding:
    first = leaked[0]
    place = first.opened_at or Place(first.protocol)
    seconds = (loop.end - min(conn.opened for conn in conns)) / 1e9
    longest = max(_idle(loop, conn) for conn in leaked)
    return Finding(
        kind="connection-leak",
        title=f"{plural(len(leaked), 'connection')} opened in {place.function} and never closed",
        evidence=[
            f"of {plural(len(conns), 'connection')} opened at the line above in "
            f"{duration(seconds * 1e9)}, {len(leaked):,} are open, idle and used by no task",
            f"idle for up to {duration(longest)}; their number only grows "
            f"({len(conns) / max(seconds, 1e-9):,.0f} a second)",
        ],
        place=place,
        advice=_CLOSE_STREAMS if first.handler is None else _CLOSE_CLIENTS,
        severity=ERROR,
        loop=loop.id,
        data={"open": len(leaked), "opened": len(conns), "longest_idle": longest},
    )


def _user(conn: ConnectionFigures) -> Place | None:
    """Where the program's or a library's task is that has the connection."""
    return _not_standard(conn.user)


def _not_standard(place: Place | None) -> Place | None:
    if place is None or places.is_standard(place) or places.is_noria(place):
        return None
    return place


def _waits_at(conn: ConnectionFigures) -> Place | None:
    """Where the connection is written to: the program's task, or its line, before a library's."""
    return _first_program(_user(conn), conn.written_at, _not_standard(conn.handler))


def _reads_at(conn: ConnectionFigures) -> Place | None:
    """Where the connection should be read: the program's task or protocol, before a library's."""
    return _first_program(_user(conn), _not_standard(conn.handler), conn.opened_at)


def _first_program(*candidates: Place | None) -> Place | None:
    known = [place for place in candidates if place is not None]
    return next(filter(places.is_program, known), known[0] if known else None)


def _peer(conn: ConnectionFigures) -> str:
    return conn.peer or f"descriptor {conn.fd}"


def _peers(conns: Iterable[ConnectionFigures]) -> str:
    each = list(conns)
    return _peer(each[0]) if len(each) == 1 else plural(len(each), "connection")
