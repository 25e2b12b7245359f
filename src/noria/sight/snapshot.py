"""A snapshot of the watched loops, as a dict for JSON: their state that no record contains.

The agent's thread takes it while the loops run. Times are CLOCK_MONOTONIC in ns.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from noria.sight.pacer import Pacer
from noria.sight.process_stat import schedstat
from noria.sight.snapshot_connections import snapshot_connections, snapshot_sockets
from noria.sight.snapshot_tasks import TaskSnapshot, snapshot_tasks

if TYPE_CHECKING:
    from noria.sight.watched_loop import WatchedLoop


def take_snapshot(loops: Iterable[WatchedLoop], private_fds: set[int]) -> dict[str, Any]:
    """Return the snapshot of the loops; of closed ones only what has happened in them.

    *private_fds* are the agent's own sockets. The key "cost" has the ns of work that it took.
    """
    pacer = Pacer()
    known = set(private_fds)
    results: list[dict[str, Any]] = []
    others: list[dict[str, Any]] = []
    for each in loops:
        loop = each.loop
        if loop is None:
            results.append({"id": each.id, "closed": True, "tasks": [], "connections": []})
            results[-1].update(errors=each.errors.records(), **_collections(each))
            if each.tasks_left is not None:
                results[-1]["tasks_left"] = each.tasks_left
            continue
        is_asyncio = isinstance(loop, asyncio.AbstractEventLoop)
        tasks = snapshot_tasks(loop, each.thread_ident, pacer) if is_asyncio else TaskSnapshot()
        connections = snapshot_connections(loop, pacer, tasks) if is_asyncio else []
        known.update(connection["fd"] for connection in connections)
        result = {
            "id": each.id,
            "running": bool(loop.running),
            "counters": loop.model.stats(),
            "tasks_alive": tasks.alive,
            "tasks": tasks.tasks,
            "connections": connections,
            "executor": each.executors.figures(loop),
            "timers": {"pending": loop.pending()[1]},
            "schedstat": [each.thread_native_id, *schedstat(each.thread_native_id)],
            "errors": each.errors.records(),
            **_collections(each),
        }
        results.append(result)
        if not is_asyncio:
            others.append(result)
    if others:
        sockets = snapshot_sockets(known, pacer)
        for result in others:
            result["connections"] = sockets
    return {"time": time.monotonic_ns(), "loops": results, "cost": pacer.total()}


def _collections(watched: WatchedLoop) -> dict[str, Any]:
    seen = watched.collections
    return {
        "gc": seen.records(),
        "gc_times": {"run": seen.run, "longest_run": seen.longest_run},
    }


def encode_snapshot(snapshot: dict[str, Any], extra: dict[str, Any] | None = None) -> bytes:
    """Return the JSON of a snapshot, in UTF-8, made in small steps so that no loop waits long."""
    pacer = Pacer()
    loops = []
    for loop in snapshot["loops"]:
        rest = {key: loop[key] for key in loop if key not in ("tasks", "connections")}
        loops.append(
            b'%s,"tasks":%s,"connections":%s}'
            % (
                _json(rest)[:-1],
                _encode_list(loop["tasks"], pacer),
                _encode_list(loop["connections"], pacer),
            )
        )
    rest = {**(extra or {}), **{key: snapshot[key] for key in snapshot if key != "loops"}}
    return b'%s,"loops":[%s]}' % (_json(rest)[:-1], b",".join(loops))


def _encode_list(records: Sequence[Any], pacer: Pacer) -> bytes:
    parts = []
    for begin in range(0, len(records), 16):
        parts.append(_json(records[begin : begin + 16])[1:-1])
        pacer.pause()
    return b"[%s]" % b",".join(parts)


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=True).encode()
