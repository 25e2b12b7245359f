"""Commands in the form in which Redis reads them: RESP, an array of strings.

Source: Redis serialization protocol specification, version 2.
redis-py's own packing takes several times as long, and joins the body of each event once more.
"""

from __future__ import annotations

from collections.abc import Iterable

from noria.bus.brokers.redis.scripts import SHA

Argument = bytes | str | int


def string(value: Argument) -> bytes:
    """Return one argument."""
    if not isinstance(value, bytes):
        value = str(value).encode()
    return b"$%d\r\n%b\r\n" % (len(value), value)


def command(*arguments: Argument) -> bytes:
    """Return a command with its arguments."""
    return b"*%d\r\n%b" % (len(arguments), b"".join(map(string, arguments)))


def script(source: str, keys: Iterable[Argument] = (), arguments: Iterable[Argument] = ()) -> bytes:
    """Return the command that runs one of the scripts."""
    keys = tuple(keys)
    return command("EVALSHA", SHA[source], len(keys), *keys, *arguments)


def array_of_script(
    source: str, keys: Iterable[Argument], arguments: Iterable[Argument], more: int
) -> bytes:
    """Return the beginning of a command that runs a script; `more` arguments follow."""
    keys, arguments = tuple(keys), tuple(arguments)
    first = ("EVALSHA", SHA[source], len(keys), *keys, *arguments)
    return b"*%d\r\n%b" % (len(first) + more, b"".join(map(string, first)))
