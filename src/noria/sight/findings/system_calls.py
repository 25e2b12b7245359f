"""Many system calls for little data."""

from __future__ import annotations

from noria.sight.findings import places
from noria.sight.findings.finding import Finding
from noria.sight.findings.thresholds import Thresholds
from noria.sight.findings.units import plural, size
from noria.sight.observation import ConnectionFigures, LoopFigures


def find(loop: LoopFigures, thresholds: Thresholds) -> list[Finding]:
    """Return a finding for each handler that sends its data in many small pieces."""
    groups: dict[tuple[str, str, int], list[ConnectionFigures]] = {}
    for conn in loop.connections:
        # Datagrams cannot be joined.
        if conn.repeated_sends * 2 > conn.sends and not conn.datagrams:
            groups.setdefault(places.key(conn.sender), []).append(conn)
    found = []
    for conns in groups.values():
        repeated = sum(conn.repeated_sends for conn in conns)
        sends = sum(conn.sends for conn in conns)
        sent = sum(conn.bytes_out for conn in conns)
        if repeated < thresholds.repeated_sends or sent > sends * thresholds.small_send:
            continue
        place = conns[0].sender
        if place is not None and not place.file:  # a protocol
            place = conns[0].handler or place
        found.append(
            Finding(
                kind="many-system-calls",
                title=f"{place.function if place else 'a handler'} sends {sends:,} times, "
                f"{size(sent / sends)} each",
                evidence=[
                    f"{plural(sends, 'system call')} sent {size(sent)} on "
                    f"{plural(len(conns), 'connection')}; {repeated:,} of them followed another "
                    "of the same handler call on the same connection",
                    f"{sends / max(sends - repeated, 1):,.0f} sends for each call of the handler",
                ],
                place=place,
                advice="Join the pieces: transport.writelines(list), b''.join(list), or a "
                "bytearray that is written once.",
                loop=loop.id,
                data={
                    "sends": sends,
                    "repeated": repeated,
                    "bytes": sent,
                    "connections": len(conns),
                },
            )
        )
    return found
