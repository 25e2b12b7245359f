"""NATS JetStream as a broker: server 2.9 or newer, with JetStream (``nats-server -js``).

Four streams (see `names`), with file storage. Options of the URL, which count when the streams are
created, and are checked afterwards:

    prefix       of all names, so that several applications can share a server (``noria``)
    partitions   of the keys (16)
    keep         how long events are kept at most, handled or not (``7d``)
    replicas     of each stream, in a cluster (1)
    creds        the file with the credentials (JWT and seed); needs the package ``nkeys``
    ca, cert, key    files, for ``nats+tls:``

What a confirmed event survives:

- the end of its program, and of a nats-server that is killed: always. The server has written it to
  its file before it confirms.
- a power failure of the machine of a single server: not what came within the last two minutes,
  since the server calls fsync that rarely. ``jetstream { sync_interval: always }`` (server 2.10)
  calls it before each confirmation, and costs most of the speed; ``sync_interval: 1s`` loses at
  most a second.
- with ``replicas=3``, the loss of one machine of three, without fsync: a majority has it before it
  is confirmed.

The server stores acknowledgements about a tenth of a second after they came. If it is killed (not
stopped), what was acknowledged in this time is given out again; a worker that is still there knows
that it has handled it, and does not again. `ack_floor` says what server 2.9 can lose beyond that.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from noria.bus.brokers.nats.connection import (
    STREAM_NOT_FOUND,
    APIError,
    Connection,
    Link,
    Request,
)
from noria.bus.brokers.nats.consumer import GroupConsumer
from noria.bus.brokers.nats.delays import DUE, MESSAGE_ID, DelayMover
from noria.bus.brokers.nats.leases import write_if
from noria.bus.brokers.nats.names import NO_KEY, Names, split_consumer, split_subject
from noria.bus.brokers.nats.solo import SoloConsumer
from noria.bus.brokers.nats.source import Source, parse_reply
from noria.bus.contract import (
    DEDUPLICATION_SECONDS,
    DEFAULT_KEEP_SECONDS,
    DEFAULT_PARTITIONS,
    EVERY_TYPE,
    GROUP_PATTERN,
    Broker,
    Consumer,
    Lag,
    Message,
    StoredLetter,
    Subscription,
    partition,
)
from noria.bus.url import BrokerURL
from noria.errors import BusError, EventTooLarge, InvalidBrokerURL

log = logging.getLogger("noria.bus")

MAX_PARTITIONS = 1024
MAX_REPLICAS = 5
# Room for the headers of a message within the server's limit, besides the id.
HEADER_SIZE = 128


# Seconds before streams that were deleted are created again. Server 2.9 removes a stream in the
# background, and one that is created meanwhile may not tell its consumers of new events.
DELETION_SECONDS = 1.0


class NATSBroker(Broker):
    """NATS JetStream through nats-py."""

    durable: ClassVar[bool] = True

    def __init__(self, url: BrokerURL, worker: str):
        super().__init__(url, worker)
        known = ["prefix", "partitions", "keep", "replicas", "creds"]
        if url.scheme == "nats+tls":
            known += ["ca", "cert", "key"]
        url.check_options(*known)
        prefix = url.options.get("prefix", "noria")
        if not GROUP_PATTERN.fullmatch(prefix) or len(prefix) > 64:
            raise InvalidBrokerURL(f"{url.shown}: prefix={prefix} must be of A-Z a-z 0-9 _ -")
        self.names = Names(prefix)
        self.partitions = url.integer("partitions", DEFAULT_PARTITIONS, 1, MAX_PARTITIONS)
        self.keep = url.seconds("keep", DEFAULT_KEEP_SECONDS)
        self.replicas = url.integer("replicas", 1, 1, MAX_REPLICAS)
        self.connection = Connection(url, self._prepare)
        # Whether the streams existed at some time.
        self._had_streams = False
        self._mover: asyncio.Task[None] | None = None
        self._consumers: set[GroupConsumer | SoloConsumer] = set()
        self._count = 0
        # Subjects with a key of which the workers were told on this link.
        self._told: set[str] = set()

    @property
    def max_size(self) -> int:
        return self.connection.max_payload - 2 * HEADER_SIZE

    # Connecting.

    async def connect(self) -> None:
        try:
            await self._link()
        except BaseException:
            await self.connection.disconnect()
            raise

    async def _link(self) -> Link:
        self.connection.name = self.worker
        return await self.connection.get()

    async def _prepare(self, link: Link) -> None:
        """See that the streams exist."""
        names = self.names
        window = round(DEDUPLICATION_SECONDS * 1e9)
        keep = round(self.keep * 1e9)
        wanted: list[dict[str, Any]] = [
            {
                "name": names.events,
                "subjects": [f"{names.prefix}.e.>"],
                "max_age": keep,
                "duplicate_window": min(window, keep),
            },
            {
                "name": names.delayed,
                "subjects": [f"{names.prefix}.d.>"],
                "retention": "workqueue",
                "duplicate_window": window,
            },
            {"name": names.dead, "subjects": [names.dead_subject]},
            {"name": names.state, "subjects": [f"{names.prefix}.s.>"], "max_msgs_per_subject": 1},
        ]
        questions = [(f"STREAM.INFO.{each['name']}", None) for each in wanted]
        found = await link.api(*questions)
        if self._had_streams and any(map(_is_missing, found)):
            await asyncio.sleep(DELETION_SECONDS)
            found = await link.api(*questions)
        created: list[str] = []
        for config, info in zip(wanted, found, strict=True):
            if not isinstance(info, APIError):
                self._check_stream(config, info["config"])
            elif _is_missing(info):
                await self._create_stream(link, config)
                created.append(config["name"])
            else:
                raise self.url.unavailable(f"JetStream: {info}")
        await self._check_settings(link)
        self._told.clear()
        if created and self._had_streams:
            log.warning(
                "%s: streams did not exist any more; they are created again, empty: %s",
                self.url.shown,
                ", ".join(created),
            )
        self._had_streams = True

    async def _create_stream(self, link: Link, config: dict[str, Any]) -> None:
        config = {
            "retention": "limits",
            "storage": "file",
            "discard": "old",
            "num_replicas": self.replicas,
            "max_msgs": -1,
            "max_bytes": -1,
            **config,
        }
        try:
            await link.call(f"STREAM.CREATE.{config['name']}", config)
        except APIError as error:
            # Another program creates it now, maybe.
            [info] = await link.api((f"STREAM.INFO.{config['name']}", None))
            if isinstance(info, APIError):
                raise InvalidBrokerURL(f"{self.url.shown}: JetStream: {error}") from error
            self._check_stream(config, info["config"])

    def _check_stream(self, wanted: dict[str, Any], found: dict[str, Any]) -> None:
        name = wanted["name"]
        if sorted(found["subjects"]) != sorted(wanted["subjects"]):
            raise InvalidBrokerURL(
                f"{self.url.shown}: the stream {name} is not noria's; choose another ?prefix="
            )
        if name == self.names.events and "keep" in self.url.options:
            self._check_option("keep", wanted["max_age"] // 10**9, found["max_age"] // 10**9)
        if "replicas" in self.url.options:
            self._check_option("replicas", self.replicas, found["num_replicas"])

    def _check_option(self, name: str, wanted: int, found: int) -> None:
        if wanted != found:
            raise InvalidBrokerURL(
                f"{self.url.shown}: {name}={self.url.options[name]}, but the streams of this "
                f"broker have {name}={found}; leave the option out, or change the streams"
            )

    async def _check_settings(self, link: Link) -> None:
        """Agree with the other programs on the number of partitions."""
        names = self.names
        if not await write_if(link, names.settings_subject, {"partitions": self.partitions}, 0):
            request = {"last_by_subj": names.settings_subject}
            try:
                found = await link.call(f"STREAM.MSG.GET.{names.state}", request)
            except APIError as error:
                raise self.url.unavailable(f"JetStream: {error}") from error
            settings = json.loads(base64.b64decode(found["message"]["data"]))
            if "partitions" in self.url.options:
                self._check_option("partitions", self.partitions, settings["partitions"])
            self.partitions = settings["partitions"]

    # Publishing.

    async def publish(self, messages: Sequence[Message]) -> Mapping[int, BusError]:
        link = await self._link()
        names = self.names
        limit = self.connection.max_payload - HEADER_SIZE
        refused: dict[int, BusError] = {}
        requests: list[Request] = []
        indices: list[int] = []
        new: list[tuple[str, bytes, str]] = []
        for index, message in enumerate(messages):
            key = message.key
            number = NO_KEY if key is None else partition(key, self.partitions)
            headers = {MESSAGE_ID: message.id}
            if len(message.body) + len(message.id) > limit:
                refused[index] = EventTooLarge(
                    f"the event has {len(message.body)} bytes; the broker takes {self.max_size}"
                )
                continue
            if message.delay > 0:
                subject = names.delayed_event(message.type, number)
                headers[DUE] = f"{time.time() + message.delay:.3f}"
            else:
                subject = names.event(message.type, number)
            if key is not None and subject not in self._told:
                self._told.add(subject)
                new.append((names.new_partition(message.type), str(number).encode(), ""))
            requests.append((subject, message.body, headers))
            indices.append(index)
        answers = await link.exchange(requests)
        for index, answer in zip(indices, answers, strict=True):
            if answer is None:
                raise link.missing_stream()
            if answer.startswith(b'{"error"'):
                error = APIError(json.loads(answer)["error"])
                if error.code == 503:
                    raise self.url.unavailable(f"JetStream: {error}")
                refused[index] = BusError(f"the broker refused the event: {error}")
        if new:
            await link.send(new)
        return refused

    # Consuming.

    async def subscribe(self, subscription: Subscription) -> Consumer:
        await self._link()
        names = self.names
        consumer: GroupConsumer | SoloConsumer
        if subscription.group is None:
            subject = (
                f"{names.prefix}.e.>"
                if subscription.type == EVERY_TYPE
                else names.event(subscription.type, "*")
            )
            consumer = SoloConsumer(
                self.connection, names.events, subject, subscription, self._consumers.discard
            )
        else:
            self._count += 1
            consumer = GroupConsumer(
                self.connection,
                names,
                subscription,
                f"{self.worker}.{self._count}",
                self.partitions,
                self._consumers.discard,
            )
        await consumer.start()
        self._consumers.add(consumer)
        if self._mover is None:
            mover = DelayMover(self.connection, names)
            self._mover = asyncio.get_running_loop().create_task(
                mover.run(), name="noria bus delays"
            )
        return consumer

    # Operating.

    async def lag(self) -> list[Lag]:
        link = await self._link()
        try:
            return await self._lag(link)
        except APIError as error:
            raise self.url.unavailable(f"JetStream: {error}") from error

    async def _lag(self, link: Link) -> list[Lag]:
        names = self.names
        every = {"subjects_filter": ">"}
        events = await link.call(f"STREAM.INFO.{names.events}", every)
        later = await link.call(f"STREAM.INFO.{names.delayed}", every)
        stored = _by_type(events)
        delayed = {type: sum(counts.values()) for type, counts in _by_type(later).items()}
        # By type and group: waiting, in flight, and the partitions that have a consumer.
        groups: dict[tuple[str, str], tuple[int, int, set[str]]] = {}
        for info in await self._group_consumers(link):
            group = split_consumer(info["name"])
            subject = info["config"].get("filter_subject", "")
            if group is None or not subject.startswith(f"{names.prefix}.e."):
                continue
            number, type = split_subject(subject)
            waiting, in_flight, numbers = groups.get((type, group), (0, 0, set()))
            waiting += info["num_pending"]
            in_flight += info["num_ack_pending"]
            groups[type, group] = waiting, in_flight, {*numbers, number}
        rows = []
        for (type, group), (waiting, in_flight, numbers) in groups.items():
            # No worker has read these partitions yet.
            waiting += sum(n for number, n in stored.get(type, {}).items() if number not in numbers)
            rows.append(Lag(type, group, waiting, in_flight, delayed.get(type, 0)))
        grouped = {type for type, _ in groups}
        for type in {*stored, *delayed} - grouped:
            waiting = sum(stored.get(type, {}).values())
            rows.append(Lag(type, None, waiting, 0, delayed.get(type, 0)))
        return sorted(rows, key=lambda row: (row.type, row.group or ""))

    async def _group_consumers(self, link: Link) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        while True:
            page = await link.call(f"CONSUMER.LIST.{self.names.events}", {"offset": len(found)})
            consumers = page.get("consumers") or []
            found += consumers
            if not consumers or len(found) >= page["total"]:
                return [each for each in found if each["config"].get("durable_name")]

    async def bury(self, letters: Sequence[bytes]) -> None:
        link = await self._link()
        answers = await link.exchange([(self.names.dead_subject, each, None) for each in letters])
        for answer in answers:
            if answer is None:
                raise link.missing_stream()
            if answer.startswith(b'{"error"'):
                error = APIError(json.loads(answer)["error"])
                if error.code == 503:
                    raise self.url.unavailable(f"JetStream: {error}")
                raise BusError(f"the broker refused a dead letter: {error}")

    async def dead_letters(self, *, after: str = "", limit: int = 100) -> list[StoredLetter]:
        link = await self._link()
        stream = self.names.dead
        first = int(after) + 1 if after.isdigit() else 1
        config = {
            "ack_policy": "none",
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": first,
            "mem_storage": True,
            "num_replicas": 1,
            "inactive_threshold": 10**10,
        }
        request = {"stream_name": stream, "config": config}
        found: list[StoredLetter] = []
        over: asyncio.Future[None] = link.loop.create_future()

        def end() -> None:
            if not over.done():
                over.set_result(None)

        def deliver(body: bytes, reply: str) -> None:
            found.append(StoredLetter(parse_reply(reply)[1], body))
            if len(found) == count:
                end()

        def fail(error: BusError) -> None:
            if not over.done():
                over.set_exception(error)

        try:
            info = await link.call(f"CONSUMER.CREATE.{stream}", request)
        except APIError as error:
            raise self.url.unavailable(f"JetStream: {error}") from error
        count = min(limit, info["num_pending"])
        source = Source(link, stream, info["name"], deliver, fail, end)
        link.loss_callbacks.add(end)
        try:
            if count:
                await source.open()
                await source.pull(count, wait=False)
                async with asyncio.timeout(5.0):
                    await over
            await link.api((f"CONSUMER.DELETE.{stream}.{info['name']}", None))
        except TimeoutError:
            raise self.url.unavailable("no answer within 5 s") from None
        finally:
            link.loss_callbacks.discard(end)
            await source.close()
        return found

    async def forget(self, ids: Sequence[str]) -> None:
        link = await self._link()
        numbers = [int(id) for id in ids if id.isdigit()]
        subject = f"STREAM.MSG.DELETE.{self.names.dead}"
        # Errors are of messages that do not exist.
        await link.api(*((subject, {"seq": number, "no_erase": True}) for number in numbers))

    async def disconnect(self) -> None:
        await self._stop_tasks()
        await self.connection.disconnect()

    async def close(self) -> None:
        await self._stop_tasks()
        await self.connection.close()

    async def _stop_tasks(self) -> None:
        tasks = [task for consumer in self._consumers for task in consumer.stop_tasks()]
        if self._mover is not None:
            self._mover.cancel()
            tasks.append(self._mover)
            self._mover = None
        if tasks:
            await asyncio.wait(tasks)
        self._consumers.clear()


def _by_type(info: dict[str, Any]) -> dict[str, dict[str, int]]:
    """Return how many messages a stream has, by type and partition."""
    counts: dict[str, dict[str, int]] = {}
    for subject, count in (info["state"].get("subjects") or {}).items():
        number, type = split_subject(subject)
        counts.setdefault(type, {})[number] = count
    return counts


def _is_missing(answer: dict[str, Any] | APIError) -> bool:
    return isinstance(answer, APIError) and answer.err_code == STREAM_NOT_FOUND
