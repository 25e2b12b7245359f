"""The connection to NATS: made when it is needed, replaced when it is lost.

nats-py would reconnect by itself, and send again what it had buffered, unnoticed. Here a lost
connection fails everything that waits for an answer, so that the callers, who have retries of their
own, know that they must repeat it; the next call connects again.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import inspect
import itertools
import json
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

import nats.errors

from noria.bus.brokers.nats.client import (
    BatchClient,
    Callback,
    Direct,
    NoTLS,
    Outgoing,
    with_direct,
)
from noria.bus.url import BrokerURL
from noria.errors import BrokerUnavailable, InvalidBrokerURL

log = logging.getLogger("noria.bus")

DEFAULT_PORT = 4222
# Seconds until an attempt to connect, or an answer of the server, is given up.
CONNECT_SECONDS = 4
ANSWER_SECONDS = 5.0
# Seconds for the answer that shows that a connection is alive.
PROBE_SECONDS = 2.0
# A connection is lost after two pings without an answer.
PING_SECONDS = 4

# Error code of JetStream (server/errors.json).
STREAM_NOT_FOUND = 10059

# Subject, payload and headers.
Request = tuple[str, bytes, dict[str, str] | None]

# nats-py checks each subject; those that are used here are made here.
_OPTIONS = (
    {"skip_subject_validation": True}
    if "skip_subject_validation" in inspect.signature(BatchClient.connect).parameters
    else {}
)


class APIError(Exception):
    """An error that JetStream's API returned."""

    def __init__(self, error: dict[str, Any]):
        super().__init__(error.get("description", "unknown error"))
        self.code = int(error.get("code", 0))
        self.err_code = int(error.get("err_code", 0))


class _Exchange:
    """Requests on their way, and their answers."""

    __slots__ = ("answers", "done", "missing")

    def __init__(self, count: int, done: asyncio.Future[None]):
        self.answers: list[bytes | None] = [None] * count
        self.missing = count
        self.done = done


class Link:
    """One connection, from its beginning until it is lost."""

    def __init__(self, url: BrokerURL, client: BatchClient, suspect: Callable[[Link], None]):
        self.url = url
        self.client = client
        # Called when an answer has not come in time.
        self.suspect = suspect
        self.loop = asyncio.get_running_loop()
        self.inbox = client.new_inbox()
        self.lost: BrokerUnavailable | None = None
        # Whether the streams exist, as far as it is known.
        self.prepared = False
        self.subscriptions: list[Any] = []
        # Called once when the connection is lost.
        self.loss_callbacks: set[Callable[[], None]] = set()
        self._exchanges: dict[bytes, _Exchange] = {}
        self._numbers = itertools.count(1)

    async def open(self) -> None:
        """Subscribe to the answers."""
        await self.subscribe(f"{self.inbox}.*.*", self._answered, self._answered_directly)

    async def subscribe(
        self, subject: str, callback: Callback, direct: Direct | None = None
    ) -> Any:
        """Return a subscription of nats-py; its messages are not limited, since pulls are.

        `direct` gets the messages before `callback`, as `client` says.
        """
        self._check()
        if direct is not None:
            callback = with_direct(callback, direct)
        try:
            subscription = await self.client.subscribe(
                subject, cb=callback, pending_msgs_limit=0, pending_bytes_limit=0
            )
        except (nats.errors.Error, OSError) as error:
            raise self.url.unavailable(error) from error
        self.subscriptions.append(subscription)
        return subscription

    async def unsubscribe(self, subscription: Any, *, drain: bool = False) -> None:
        """End a subscription; with `drain`, after what is on its way has arrived."""
        if subscription not in self.subscriptions:
            return
        self.subscriptions.remove(subscription)
        if self.lost is not None:
            drain = False
        with contextlib.suppress(nats.errors.Error, OSError, TimeoutError):
            if drain:
                async with asyncio.timeout(ANSWER_SECONDS):
                    await subscription.drain()
                return
            await subscription.unsubscribe()

    async def send(self, messages: Iterable[tuple[str, bytes, str]]) -> None:
        """Send messages of subject, payload and reply subject, without waiting for anything."""
        self._check()
        try:
            await self.client.publish_all(
                [(subject, payload, reply, None) for subject, payload, reply in messages]
            )
        except (nats.errors.Error, OSError) as error:
            raise self.url.unavailable(error) from error

    async def exchange(
        self, requests: Sequence[Request], seconds: float = ANSWER_SECONDS
    ) -> list[bytes | None]:
        """Send requests together, and return their answers; None where nothing listens."""
        self._check()
        number = b"%d" % next(self._numbers)
        exchange = _Exchange(len(requests), self.loop.create_future())
        if not requests:
            return []
        self._exchanges[number] = exchange
        timer = self.loop.call_later(seconds, self._time_out, exchange, seconds)
        prefix = f"{self.inbox}.{number.decode()}."
        messages: list[Outgoing] = [
            (subject, payload, f"{prefix}{index}", headers)
            for index, (subject, payload, headers) in enumerate(requests)
        ]
        try:
            await self.client.publish_all(messages)
            await exchange.done
        except (nats.errors.Error, OSError) as error:
            if isinstance(error, BrokerUnavailable):
                raise
            raise self.url.unavailable(error) from error
        finally:
            timer.cancel()
            del self._exchanges[number]
            if exchange.done.done() and not exchange.done.cancelled():
                exchange.done.exception()
        return exchange.answers

    async def round_trip(self, seconds: float = ANSWER_SECONDS) -> None:
        """Wait until the server has read all that was sent before."""
        await self.exchange([(f"{self.inbox}.echo.0", b"", None)], seconds)

    async def api(self, *requests: tuple[str, Any]) -> list[dict[str, Any] | APIError]:
        """Call JetStream's API (subject below ``$JS.API.``, arguments); errors are returned."""
        answers = await self.exchange(
            [
                (f"$JS.API.{subject}", b"" if value is None else json.dumps(value).encode(), None)
                for subject, value in requests
            ]
        )
        results: list[dict[str, Any] | APIError] = []
        for answer in answers:
            if answer is None:
                raise self.url.unavailable("JetStream does not answer")
            result = json.loads(answer)
            if "error" in result:
                error = APIError(result["error"])
                if error.code == 503:
                    raise self.url.unavailable(f"JetStream: {error}")
                results.append(error)
            else:
                results.append(result)
        return results

    async def call(self, subject: str, value: Any = None) -> dict[str, Any]:
        """Call JetStream's API once.

        Raises APIError, and BrokerUnavailable if a stream does not exist.
        """
        [result] = await self.api((subject, value))
        if isinstance(result, APIError):
            raise self.missing_stream() if result.err_code == STREAM_NOT_FOUND else result
        return result

    def missing_stream(self) -> BrokerUnavailable:
        """Have the streams created before the next call, and return the exception for this one.

        Where no stream listens, a publication has no answer. Then JetStream may also be disabled,
        which the next call finds.
        """
        self.prepared = False
        return BrokerUnavailable(
            f"{self.url.shown}: no stream of the bus answers; the next attempt creates it if it "
            "does not exist"
        )

    def _answered_directly(
        self, subject: bytes, reply: bytes, data: bytes, headers: bytes | None
    ) -> bool:
        if headers:
            return False
        self._answer(subject, reply, data)
        return True

    async def _answered(self, message: Any) -> None:
        nothing_listens = not message.data and message.headers is not None
        data = None if nothing_listens else message.data
        self._answer(message.subject.encode(), message.reply.encode(), data)

    def _answer(self, subject: bytes, reply: bytes, data: bytes | None) -> None:
        _, number, index = subject.rsplit(b".", 2)
        if number == b"echo":
            _, number, index = reply.rsplit(b".", 2)
        exchange = self._exchanges.get(number)
        if exchange is None:
            return
        exchange.answers[int(index)] = data
        exchange.missing -= 1
        if not exchange.missing and not exchange.done.done():
            exchange.done.set_result(None)

    def _time_out(self, exchange: _Exchange, seconds: float) -> None:
        if not exchange.done.done():
            exchange.done.set_exception(self.url.unavailable(f"no answer within {seconds:g} s"))
            self.suspect(self)

    def _check(self) -> None:
        if self.lost is not None:
            raise self.lost

    def fail(self, error: BrokerUnavailable) -> None:
        """End everything that waits for an answer."""
        if self.lost is not None:
            return
        self.lost = error
        for exchange in self._exchanges.values():
            if not exchange.done.done():
                exchange.done.set_exception(error)
        for callback in list(self.loss_callbacks):
            callback()

    async def close(self) -> None:
        """Close the connection, whatever its state; nothing of it is left running."""
        self.fail(self.url.unavailable("the connection is closed"))
        for subscription in list(self.subscriptions):
            await self.unsubscribe(subscription)
        # nats-py's close first writes what it has left, and raises what this raises on a broken
        # connection, TypeError included; then the socket is closed already.
        with contextlib.suppress(Exception):
            await self.client.close()


class Connection:
    """Keeps one link, and makes another one when it is lost.

    `prepare` creates the streams that do not exist; `get` calls it for each link, and again when a
    stream was found missing.
    """

    def __init__(self, url: BrokerURL, prepare: Callable[[Link], Awaitable[None]]):
        self.url = url
        self.prepare = prepare
        # That the server shows for the connection.
        self.name = ""
        self.link: Link | None = None
        self.closed = False
        self._attempt: asyncio.Task[Link] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._probed: Link | None = None
        # Servers of the cluster that the server has named.
        self._discovered: list[str] = []
        self._was_lost = False
        self._preparing = asyncio.Lock()

    @property
    def max_payload(self) -> int:
        """The largest message that the server takes, headers included."""
        return self.link.client.max_payload if self.link is not None else 1 << 20

    async def get(self) -> Link:
        """Return a link on which the streams exist; connect if there is none.

        Raises BrokerUnavailable and InvalidBrokerURL.
        """
        link = await self._open()
        if not link.prepared:
            async with self._preparing:
                if not link.prepared:
                    await self.prepare(link)
                    link.prepared = True
        return link

    async def _open(self) -> Link:
        link = self.link
        if link is not None and link.lost is None:
            return link
        if self.closed:
            raise self.url.unavailable("the connection is closed")
        if self._attempt is None:
            self._attempt = asyncio.get_running_loop().create_task(
                self._connect(), name="noria bus connection"
            )
            self._attempt.add_done_callback(self._attempted)
        attempt = self._attempt
        # Not `shield`: if `disconnect` cancels the attempt, the tasks that wait for it go on.
        await asyncio.wait([attempt])
        if attempt.cancelled():
            raise self.url.unavailable("the connection is closed")
        return attempt.result()

    def _attempted(self, task: asyncio.Task[Link]) -> None:
        self._attempt = None
        if not task.cancelled():
            task.exception()

    async def _connect(self) -> Link:
        errors: list[Exception] = []
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                for server in [*self._servers(), *self._discovered]:
                    try:
                        link = await self._connect_to(server)
                        break
                    except (nats.errors.Error, OSError, TimeoutError) as error:
                        errors.append(error)
                else:
                    self._raise(errors)
        except TimeoutError:
            errors.append(TimeoutError(f"no connection within {CONNECT_SECONDS:g} s"))
            self._raise(errors)
        self.link = link
        self._discovered = [url.geturl() for url in link.client.discovered_servers]
        if self._was_lost:
            self._was_lost = False
            log.info("connected to %s again", self.url.shown)
        return link

    def _servers(self) -> list[str]:
        servers = []
        for host, port in self.url.hosts:
            name = f"[{host}]" if ":" in host else host
            servers.append(f"nats://{name}:{port or DEFAULT_PORT}")
        return servers

    async def _connect_to(self, server: str) -> Link:
        login = self._login()
        client = BatchClient(require_tls=self.url.scheme == "nats+tls")
        links: list[Link] = []
        reasons: list[Exception] = []
        refused: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        async def lost() -> None:
            for link in links:
                self._lost(link, reasons[-1] if reasons else "the connection broke")

        async def failed(error: Exception) -> None:
            reasons.append(error)
            if not refused.done():
                refused.set_result(None)

        connecting = asyncio.ensure_future(
            client.connect(
                server,
                name=self.name,
                error_cb=failed,
                disconnected_cb=lost,
                closed_cb=lost,
                # The time of an attempt is limited above.
                connect_timeout=CONNECT_SECONDS,
                reconnect_time_wait=0,
                max_reconnect_attempts=1,
                ping_interval=PING_SECONDS,
                max_outstanding_pings=2,
                **{**login, **_OPTIONS},
            )
        )
        try:
            # nats-py reports a failed TLS handshake, and then waits for the end of the connection
            # without an end.
            await asyncio.wait([connecting, refused], return_when=asyncio.FIRST_COMPLETED)
            if reasons:
                raise reasons[0]
            await connecting
            link = Link(self.url, client, self._suspect)
            links.append(link)
            await link.open()
        except BaseException:
            connecting.cancel()
            await asyncio.gather(connecting, return_exceptions=True)
            with contextlib.suppress(Exception):  # AssertionError, if it had no connection
                await client.close()
            raise
        return link

    def _login(self) -> dict[str, Any]:
        url = self.url
        login: dict[str, Any] = {}
        if url.user is not None and url.password is None:
            login["token"] = url.user
        elif url.user is not None:
            login.update(user=url.user, password=url.password)
        if "creds" in url.options:
            self._check_credentials(url.options["creds"])
            login["user_credentials"] = url.options["creds"]
        if url.scheme == "nats+tls":
            login["tls"] = url.ssl_context()
        return login

    def _check_credentials(self, path: str) -> None:
        """Raise InvalidBrokerURL if nats-py could not use a file of credentials."""
        if importlib.util.find_spec("nkeys") is None:
            raise InvalidBrokerURL(f"{self.url.shown}: creds= needs a package: pip install nkeys")
        try:
            with open(path, "rb") as file:
                found = file.read()
        except OSError as error:
            raise InvalidBrokerURL(f"{self.url.shown}: creds: {error}") from error
        if b"-BEGIN NATS USER JWT-" not in found or b"NKEY SEED-" not in found:
            raise InvalidBrokerURL(f"{self.url.shown}: {path} is no credentials file of NATS")

    def _raise(self, errors: Sequence[Exception]) -> None:
        error = errors[-1] if errors else "it has no server"
        if "authorization" in str(error).lower():
            raise InvalidBrokerURL(
                f"{self.url.shown}: the broker refuses the login; "
                "write nats://USER:PASSWORD@HOST, nats://TOKEN@HOST or nats://HOST?creds=FILE"
            )
        if isinstance(error, NoTLS):
            raise self.url.unavailable(error, "nats+tls: needs a server with TLS")
        raise self.url.unavailable(error)

    def _lost(self, link: Link, reason: Exception | str) -> None:
        """Note the loss of a link; nats-py calls this from the task that would reconnect."""
        if link.lost is not None:
            return
        link.fail(self.url.unavailable(reason))
        if not self.closed:
            self._was_lost = True
            log.warning("lost the connection to %s: %s", self.url.shown, link.lost)
        self._keep(link.loop.create_task(link.close(), name="noria bus disconnection"))

    def _keep(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _suspect(self, link: Link) -> None:
        """See whether it is JetStream that does not answer, or the connection is dead."""
        if self._probed is not link and link.lost is None:
            self._probed = link
            self._keep(link.loop.create_task(self._probe(link), name="noria bus probe"))

    async def _probe(self, link: Link) -> None:
        try:
            await link.round_trip(PROBE_SECONDS)
        except BrokerUnavailable:
            self._lost(link, "it does not answer")
        self._probed = None

    async def close(self) -> None:
        """Disconnect, and do not connect again."""
        self.closed = True
        await self.disconnect()

    async def disconnect(self) -> None:
        """Close the link; no error if it is broken, or closed."""
        if self._attempt is not None:
            self._attempt.cancel()
            await asyncio.wait([self._attempt])
        link, self.link = self.link, None
        if link is not None:
            await link.close()
        # These are short; the end of the link ends a probe.
        while self._tasks:
            await asyncio.wait(list(self._tasks))
