"""nats-py's client, with a shorter way for many messages.

nats-py builds, sends and receives each message in several coroutine calls, and passes it through a
queue to a task for each subscription. That costs more than the rest of the adapter together. Here
the messages of a batch are one command, and what arrives for a `direct` callback is passed to it
by the task that reads. nats-py keeps the connection, the login, TLS, pings and subscriptions.

The methods that this overrides and uses are not public. If a version of nats-py has others, all
messages go nats-py's way.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import nats.errors
from nats.aio.client import Client

# Subject, payload, reply subject and headers.
Outgoing = tuple[str, bytes, str, dict[str, str] | None]
# Called with subject, reply subject, payload and encoded headers; returns whether it has taken the
# message: otherwise the callback gets it in nats-py's form.
Direct = Callable[[bytes, bytes, bytes, bytes | None], bool]
Callback = Callable[[Any], Awaitable[None]]


def _parameters(name: str) -> list[str]:
    method = getattr(Client, name, None)
    return [] if method is None else list(inspect.signature(method).parameters)


_KNOWN = _parameters("_process_msg") == ["self", "sid", "subject", "reply", "data", "headers"] and (
    _parameters("_send_command")[:2] == ["self", "cmd"] and bool(_parameters("_flush_pending"))
)


def with_direct(callback: Callback, direct: Direct) -> Callback:
    """Return a callback for `Client.subscribe` that gets its messages directly if possible."""
    found = functools.partial(callback)
    found.direct = direct  # type: ignore[attr-defined,unused-ignore]
    return found


class NoTLS(nats.errors.Error):
    """The server offers no TLS, or nats-py cannot be kept from a connection without it."""


class BatchClient(Client):  # type: ignore[misc,unused-ignore]
    """See above.

    `require_tls`: raise NoTLS instead of sending the login on a connection without TLS. nats-py
    uses TLS only if the server requires it, whatever the scheme and the settings of TLS are.
    """

    def __init__(self, *, require_tls: bool = False) -> None:
        super().__init__()
        if require_tls and _parameters("_connect_command") != ["self"]:
            raise NoTLS("this version of the package nats-py may connect without TLS")
        self.require_tls = require_tls

    async def _process_info(self, info: dict[str, Any], *arguments: Any, **named: Any) -> None:
        if self.require_tls and info.get("tls_available"):
            # The server permits TLS. nats-py looks at this only.
            info["tls_required"] = True
        await super()._process_info(info, *arguments, **named)

    def _connect_command(self) -> bytes:
        """Return the command with the login."""
        if self.require_tls:
            writer = getattr(self._transport, "_io_writer", None)
            if writer is None or writer.get_extra_info("ssl_object") is None:
                raise NoTLS("the server offers no TLS")
        command: bytes = super()._connect_command()
        return command

    async def publish_all(self, messages: Iterable[Outgoing]) -> None:
        """Publish messages, without waiting for anything. Raises as `publish` does."""
        if not _KNOWN or self._flush_queue is None:
            for subject, payload, reply, headers in messages:
                await self.publish(subject, payload, reply, headers)
            return
        if not self.is_connected:
            raise nats.errors.ConnectionClosedError
        pieces: list[bytes] = []
        for subject, payload, reply, headers in messages:
            if len(payload) > self.max_payload:
                raise nats.errors.MaxPayloadError
            if headers is None:
                head = f"PUB {subject} {reply} {len(payload)}\r\n".encode()
            else:
                lines = "".join([f"{name}: {_line(value)}\r\n" for name, value in headers.items()])
                encoded = f"NATS/1.0\r\n{lines}\r\n".encode()
                size = len(encoded)
                command = f"HPUB {subject} {reply} {size} {size + len(payload)}\r\n"
                head = command.encode() + encoded
            pieces += (head, payload, b"\r\n")
        if pieces:
            await self._send_command(b"".join(pieces))
            if self._flush_queue.empty():
                await self._flush_pending()

    if _KNOWN:

        async def _process_msg(
            self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes
        ) -> None:
            subscription = self._subs.get(sid)
            if subscription is not None:
                direct = getattr(subscription._cb, "direct", None)
                if direct is not None and direct(subject, reply, data, headers):
                    return
            await super()._process_msg(sid, subject, reply, data, headers)


def _line(value: str) -> str:
    """Return the value of a header; a line break in it would begin another one."""
    return value if value.isprintable() else value.replace("\r", " ").replace("\n", " ")
