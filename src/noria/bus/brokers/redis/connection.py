"""Connections to the server: batches of commands in one write, replies in order.

A `Link` is one connection of redis-py's `redis.asyncio.Connection`, of which it uses the public
methods `connect`, `send_packed_command`, `read_response` and `disconnect`; the client above it
would cost more for each command than the rest of the adapter.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import re
import time
from collections.abc import Sequence
from typing import Any

from redis.asyncio import Connection, SSLConnection, UnixDomainSocketConnection
from redis.exceptions import (
    AuthenticationError,
    ClusterDownError,
    MasterDownError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)

from noria.bus.brokers.redis import resp
from noria.bus.brokers.redis.scripts import ALL
from noria.bus.url import BrokerURL
from noria.errors import BrokerUnavailable, BusError, InvalidBrokerURL

log = logging.getLogger("noria.bus")

# Seconds for a connection, with its login.
CONNECT_SECONDS = 3.0
# Seconds for one exchange of commands and replies.
CALL_SECONDS = 5.0
DEFAULT_PORT = 6379
# Seconds in which a refusal is logged once.
REFUSAL_SECONDS = 60.0
# Replies that say that the server cannot do it now, and which of them a new connection may cure:
# it may reach another server, or loads the scripts again.
_TEMPORARY = re.compile(
    r"\b(LOADING|READONLY|MASTERDOWN|UNBLOCKED|NOSCRIPT|BUSY|OOM|MISCONF|NOREPLICAS|CLUSTERDOWN"
    r"|TRYAGAIN)\b"
)
# redis-py cuts the code off where it has a class for it.
_CODES = {
    ClusterDownError: "CLUSTERDOWN",
    MasterDownError: "MASTERDOWN",
    NoScriptError: "NOSCRIPT",
    OutOfMemoryError: "OOM",
    ReadOnlyError: "READONLY",
    TryAgainError: "TRYAGAIN",
}
_REASONS = {"OOM": "it has no memory left; raise maxmemory, or start workers that empty it"}
_RECONNECT = frozenset({"LOADING", "READONLY", "MASTERDOWN", "UNBLOCKED", "NOSCRIPT"})


class Health:
    """Logs the loss and the return of the server once each, however many connections it has."""

    def __init__(self, url: BrokerURL):
        self.url = url
        # Losses so far. A connection that is older than the last loss says nothing new.
        self.losses = 0
        self.lost = False
        # Whether there was ever a connection: the first call of a program raises if there is none.
        self.known = False
        # Whether CLIENT UNBLOCK is refused.
        self.limited = False
        # When a refusal was logged, by its code.
        self.refusals: dict[str, float] = {}

    def report_loss(self, since: int, error: BaseException | str) -> None:
        """Report that a connection broke that was made when there were `since` losses."""
        if self.known and since == self.losses and not self.lost:
            self.losses += 1
            self.lost = True
            log.warning("%s; trying to connect again", self.url.unavailable(error))

    def report_refusal(self, code: str, text: str) -> None:
        """Report that the server refuses commands or logins; each `code` once a minute at most."""
        now = time.monotonic()
        if self.refusals.get(code, -REFUSAL_SECONDS) + REFUSAL_SECONDS <= now:
            self.refusals[code] = now
            log.warning("%s; trying again", text)

    def report_limit(self, reply: object) -> None:
        """Report, once, that the user may not use CLIENT ID and CLIENT UNBLOCK."""
        if not self.limited:
            self.limited = True
            log.info("%s: polling, since CLIENT UNBLOCK is refused: %s", self.url.shown, reply)

    def report_success(self) -> int:
        """Report a new connection; return the number of losses."""
        self.known = True
        if self.lost:
            self.lost = False
            log.info("connected to %s again", self.url.shown)
        return self.losses


class _Call:
    """Commands that wait for their replies."""

    __slots__ = ("commands", "count", "replies")

    def __init__(self, commands: bytes, count: int, replies: asyncio.Future[list[Any]]):
        self.commands = commands
        self.count = count
        self.replies = replies


class Link:
    """One connection, made when it is needed.

    `call` may be used by several tasks at once: what they send while an exchange is on its way goes
    together in the next one. `exchange` is for a task that has the link to itself.
    """

    def __init__(self, servers: Servers):
        self.servers = servers
        self.connection: Any = None
        # The server's number of this connection, for CLIENT UNBLOCK; None: it may not be asked.
        self.client_id: int | None = None
        # Increased with each connection.
        self.generation = 0
        self.losses = 0
        self.calls: list[_Call] = []
        self.task: asyncio.Task[None] | None = None
        self.connecting = asyncio.Lock()
        self.closed = False

    async def call(self, *commands: bytes, count: int | None = None) -> list[Any]:
        """Send commands and return their replies; an error reply is raised, the first of them.

        `count`: of the replies, where a piece is not one command. Raises BrokerUnavailable, and
        BusError for a reply that means that the command is wrong.
        """
        loop = asyncio.get_running_loop()
        replies: asyncio.Future[list[Any]] = loop.create_future()
        self.calls.append(_Call(b"".join(commands), count or len(commands), replies))
        if self.task is None:
            self.task = loop.create_task(self._exchange_all(), name="noria bus redis")
        found = await replies
        for reply in found:
            if isinstance(reply, Exception):
                raise self.explain(reply)
        return found

    async def _exchange_all(self) -> None:
        try:
            while self.calls:
                calls, self.calls = self.calls, []
                count = sum(call.count for call in calls)
                try:
                    found = await self.exchange([call.commands for call in calls], count)
                except BusError as error:
                    self._fail(calls, error)
                    continue
                except asyncio.CancelledError:
                    self._fail(calls, self.servers.url.unavailable("the connection was closed"))
                    raise
                position = 0
                for call in calls:
                    if not call.replies.done():
                        call.replies.set_result(found[position : position + call.count])
                    position += call.count
        finally:
            self.task = None

    @staticmethod
    def _fail(calls: Sequence[_Call], error: BusError) -> None:
        for call in calls:
            if not call.replies.done():
                call.replies.set_exception(error.with_traceback(None))

    async def exchange(
        self, commands: Sequence[bytes], count: int, seconds: float = CALL_SECONDS
    ) -> list[Any]:
        """Send commands and return `count` replies, error replies as exceptions in the list.

        The connection is closed if anything goes wrong, also when cancelled. Raises
        BrokerUnavailable.
        """
        await self.connect()
        try:
            connection = self.connection
            read_response = connection.read_response
            replies: list[Any] = []
            async with asyncio.timeout(seconds):
                await connection.send_packed_command(commands, check_health=False)
                for _ in range(count):
                    try:
                        replies.append(await read_response())
                    except ResponseError as error:
                        replies.append(error)
            return replies
        except BrokerUnavailable:  # from `connect`
            raise
        except (RedisError, OSError, TimeoutError) as error:
            reason = f"no answer within {seconds:g} s" if _is_timeout(error) else error
            await self._lose(reason)
            raise self.servers.url.unavailable(reason) from None
        except asyncio.CancelledError:
            await self.disconnect()
            raise

    async def connect(self) -> None:
        """Connect if there is no connection. Raises BrokerUnavailable or InvalidBrokerURL."""
        if self.connection is None:
            # A publication connects at the same time as `call`, maybe.
            async with self.connecting:
                if self.connection is None:
                    await self._connect()

    async def _connect(self) -> None:
        if self.closed:
            raise self.servers.url.unavailable("the connection was closed")
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                self.connection, self.client_id = await self.servers.connect()
        except InvalidBrokerURL as error:
            if not self.servers.health.known:
                raise
            # It was valid before: an operator changes the password now, maybe.
            self.servers.health.report_refusal("login", str(error))
            raise BrokerUnavailable(str(error)) from None
        except (RedisError, OSError, TimeoutError) as error:
            reason = "it does not answer" if _is_timeout(error) else _without_number(error)
            self.servers.health.report_loss(self.servers.health.losses, reason)
            raise self.servers.url.unavailable(reason) from None
        if self.closed:
            await self.disconnect()
            raise self.servers.url.unavailable("the connection was closed")
        self.generation += 1
        self.losses = self.servers.health.report_success()

    def explain(self, error: Exception) -> BusError:
        """Return the exception for an error reply; close the connection if a new one may help."""
        text = _text(error)
        temporary = _TEMPORARY.search(text)
        if temporary is None:
            return BusError(f"{self.servers.url.shown} refused a command: {text}")
        reason = _REASONS.get(temporary[1], text)
        refusal = BrokerUnavailable(f"{self.servers.url.shown} refuses commands: {reason}")
        self.servers.health.report_refusal(temporary[1], str(refusal))
        if temporary[1] in _RECONNECT and self.connection is not None:
            connection, self.connection = self.connection, None
            self.servers.drop(connection)
            if temporary[1] == "READONLY":
                self.servers.try_next()
        return refusal

    async def _lose(self, reason: BaseException | str) -> None:
        if self.connection is not None:
            self.servers.health.report_loss(self.losses, reason)
            await self.disconnect()

    async def disconnect(self) -> None:
        """Close the connection; the next call makes another one."""
        connection, self.connection = self.connection, None
        if connection is not None:
            await self.servers.disconnect(connection)

    async def reset(self) -> None:
        """Close the connection; waiting calls fail, and the next call makes another connection."""
        if self.task is not None:
            self.task.cancel()
            await asyncio.wait([self.task])
            self.task = None
        calls, self.calls = self.calls, []
        self._fail(calls, self.servers.url.unavailable("the connection was closed"))
        await self.disconnect()

    async def close(self) -> None:
        """Close the connection for good; waiting calls fail."""
        self.closed = True
        await self.reset()


class Servers:
    """Makes connections to the servers of a URL, one of which is the master."""

    def __init__(self, url: BrokerURL):
        self.url = url
        self.health = Health(url)
        self.hosts = url.hosts or ((url.path, None),)
        self.next_host = 0
        self.unix = url.scheme.endswith("+unix")
        self.tls = url.scheme in ("rediss", "valkeys")
        self.options = self._options()
        self.dropped: set[asyncio.Task[None]] = set()

    def _options(self) -> dict[str, Any]:
        url = self.url
        options: dict[str, Any] = {
            "protocol": 2,
            "username": url.user or None,
            "password": url.password,
            # Link limits whole exchanges; a limit for each read would cost more than the read.
            "socket_timeout": None,
            "socket_connect_timeout": CONNECT_SECONDS,
            "socket_read_size": 1 << 18,
        }
        if not self.unix:
            number = url.path.strip("/") or "0"
            if not number.isascii() or not number.isdigit():
                raise InvalidBrokerURL(
                    f"{url.shown}: the path is the number of the database, as /0, not {url.path!r}"
                )
            options["db"] = int(number)
            options["socket_keepalive"] = True
        if self.tls:
            for option, name in (("ca", "ssl_ca_certs"), ("cert", "ssl_certfile")):
                if option in url.options:
                    options[name] = url.options[option]
            if "key" in url.options:
                options["ssl_keyfile"] = url.options["key"]
            options["ssl_check_hostname"] = True
        return options

    def try_next(self) -> None:
        """Begin with the next host at the next connection."""
        self.next_host = (self.next_host + 1) % len(self.hosts)

    async def connect(self) -> tuple[Any, int | None]:
        """Return a connection to the master, and its number there.

        Raises redis-py's exceptions, or InvalidBrokerURL if the login is refused.
        """
        problem: Exception | None = None
        for _ in range(len(self.hosts)):
            try:
                return await self._connect(*self.hosts[self.next_host])
            except (RedisError, OSError, TimeoutError) as error:
                problem = error
                self.try_next()
        assert problem is not None
        if self.tls:
            # Raises if the files of TLS are the cause, and says so: redis-py's error does not.
            self.url.ssl_context()
        raise problem

    async def _connect(self, host: str, port: int | None) -> tuple[Any, int | None]:
        connection: Any
        if self.unix:
            connection = UnixDomainSocketConnection(path=host, **self.options)
        else:
            kind = SSLConnection if self.tls else Connection
            connection = kind(host=host, port=port or DEFAULT_PORT, **self.options)
        try:
            await connection.connect()
            replies = await _prepare(connection, len(self.hosts) > 1)
        except (AuthenticationError, ResponseError) as error:
            await self.disconnect(connection)
            if _TEMPORARY.search(_text(error)):
                raise
            raise InvalidBrokerURL(f"{self.url.shown} refused the login: {error}") from None
        except BaseException:
            await self.disconnect(connection)
            raise
        if isinstance(replies[0], int) and replies[1] == 0:
            return connection, replies[0]
        self.health.report_limit(replies[1])
        return connection, None

    async def disconnect(self, connection: Any) -> None:
        """Disconnect, without an error if the connection is broken."""
        with contextlib.suppress(RedisError, OSError, TimeoutError):
            # The end of TLS takes some turns of the loop, which may be closed then.
            await connection.disconnect(nowait=not self.tls)

    def drop(self, connection: Any) -> None:
        """Disconnect in a task."""
        task = asyncio.get_running_loop().create_task(self.disconnect(connection))
        self.dropped.add(task)
        task.add_done_callback(self.dropped.discard)

    async def close(self) -> None:
        """Wait for the connections that were dropped."""
        if self.dropped:
            await asyncio.wait(self.dropped)


_LOAD = b"".join(
    itertools.chain(
        # No connection has the number 0: it only shows whether the user may use the command.
        [resp.command("CLIENT", "ID"), resp.command("CLIENT", "UNBLOCK", 0)],
        (resp.command("SCRIPT", "LOAD", each) for each in ALL),
    )
)


async def _prepare(connection: Any, check_role: bool) -> list[Any]:
    """Load the scripts; return the replies, those to CLIENT ID and CLIENT UNBLOCK first."""
    commands = [_LOAD, resp.command("ROLE")] if check_role else [_LOAD]
    await connection.send_packed_command(commands, check_health=False)
    replies: list[Any] = []
    for _ in range(1 + len(ALL) + len(commands)):
        try:
            replies.append(await connection.read_response())
        except ResponseError as error:
            replies.append(error)
    if check_role and isinstance(replies[-1], list) and replies[-1][0] != b"master":
        raise ConnectionError("it is a replica, and no other host of the URL is a master")
    return replies


def _text(error: Exception) -> str:
    """Return an error reply as the server wrote it."""
    code = _CODES.get(type(error))
    return f"{code} {error}" if code else str(error)


def _is_timeout(error: BaseException) -> bool:
    return isinstance(error, TimeoutError) or type(error).__name__ == "TimeoutError"


def _without_number(error: BaseException) -> BaseException | str:
    """Return the cause of a failed connection, or what redis-py says without its address."""
    cause = error.__cause__ or error.__context__
    if isinstance(cause, OSError) and cause.errno:
        return cause
    match = re.search(r"(?:Connect call failed|connecting to).*?\. (.+?)\.?$", str(error))
    return match[1] if match else error
