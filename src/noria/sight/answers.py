"""The answers to requests of the live protocol."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from noria.sight.dump import dump_rings
from noria.sight.server import Answer

if TYPE_CHECKING:
    from noria.sight.agent import Agent


def _number(request: dict[str, Any], key: str) -> int:
    value = request.get(key, 0)
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"{key!r} must be a number")
    return value


def _encode(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _hello(agent: Agent, request: dict[str, Any]) -> Answer:
    return _encode(agent.hello()), -1


def _ring(agent: Agent, request: dict[str, Any]) -> Answer:
    return b'{"ok":true}', agent.ring(_number(request, "loop"))


def _names(agent: Agent, request: dict[str, Any]) -> Answer:
    names = agent.names(_number(request, "loop"), _number(request, "after"))
    return _encode({"names": names}), -1


def _snapshot(agent: Agent, request: dict[str, Any]) -> Answer:
    return agent.encoded_snapshot(), -1


def _blocks(agent: Agent, request: dict[str, Any]) -> Answer:
    return _encode({"blocks": agent.blocks_after(_number(request, "after"))}), -1


def _buses(agent: Agent, request: dict[str, Any]) -> Answer:
    return _encode({"buses": agent.buses()}), -1


def _dump(agent: Agent, request: dict[str, Any]) -> Answer:
    path = request.get("path")
    if not isinstance(path, str) or not path.startswith("/") or "\0" in path:
        raise ValueError("'path' must be an absolute path")
    return _encode({"ok": True, "path": path, "records": dump_rings(agent, path)}), -1


_GET: dict[str, Callable[[Agent, dict[str, Any]], Answer]] = {
    "hello": _hello,
    "ring": _ring,
    "names": _names,
    "snapshot": _snapshot,
    "blocks": _blocks,
    "buses": _buses,
}


def answer(agent: Agent, request: dict[str, Any]) -> Answer:
    """Return the JSON of the answer, and a descriptor to pass or -1.

    Raises ValueError for a request that is not of the protocol, and OSError.
    """
    if request.get("do") == "dump":
        return _dump(agent, request)
    what = request.get("get")
    function = _GET.get(what) if isinstance(what, str) else None
    if function is None:
        raise ValueError(f"unknown request; known are get: {', '.join(_GET)}, and do: dump")
    return function(agent, request)
