"""The durable consumers of JetStream that groups consist of."""

from __future__ import annotations

from typing import Any, Literal

from noria.bus.brokers.nats.ack_floor import nanoseconds
from noria.bus.brokers.nats.connection import APIError, Link

# Pulls that may wait in the server for one consumer: one or two for each worker.
MAX_WAITING = 8192
# Error codes of JetStream (server/errors.json).
CONSUMER_NOT_FOUND = 10014
MESSAGE_NOT_FOUND = 10037
WRONG_LAST_SEQUENCE = (10071, 10164)


async def ensure(
    link: Link,
    stream: str,
    name: str,
    subject: str,
    claim: float,
    start: Literal["oldest", "newest"] | dict[str, Any] = "oldest",
) -> dict[str, Any]:
    """Return the information of a durable consumer; create it if it does not exist.

    `claim`: seconds; a consumer that has other ones gets these. `start`: where it begins, or the
    information of the consumer with which it begins together. If the stream is younger than that
    one, it replaces another stream, and the consumer begins with its first event.
    Raises APIError and BrokerUnavailable.
    """
    ack_wait = round(claim * 1e9)
    try:
        found = await link.call(f"CONSUMER.INFO.{stream}.{name}")
    except APIError as error:
        if error.err_code != CONSUMER_NOT_FOUND:
            raise
    else:
        if found["config"]["ack_wait"] == ack_wait:
            return found
        config = {**found["config"], "ack_wait": ack_wait}
        return await _create(link, stream, name, config)
    config = {
        "durable_name": name,
        "filter_subject": subject,
        "ack_policy": "explicit",
        "ack_wait": ack_wait,
        "max_deliver": -1,
        "max_ack_pending": -1,
        "max_waiting": MAX_WAITING,
        "replay_policy": "instant",
        "deliver_policy": "all",
    }
    if isinstance(start, dict):
        sequence = start["config"].get("opt_start_seq")
        if sequence is not None:
            created = (await link.call(f"STREAM.INFO.{stream}"))["created"]
            if nanoseconds(created) < nanoseconds(start["created"]):
                config["deliver_policy"] = "by_start_sequence"
                config["opt_start_seq"] = sequence
    elif start == "newest":
        state = (await link.call(f"STREAM.INFO.{stream}"))["state"]
        config["deliver_policy"] = "by_start_sequence"
        config["opt_start_seq"] = state["last_seq"] + 1
    try:
        return await _create(link, stream, name, config)
    except APIError:
        # Another worker may have created it, with another start.
        return await link.call(f"CONSUMER.INFO.{stream}.{name}")


async def _create(link: Link, stream: str, name: str, config: dict[str, Any]) -> dict[str, Any]:
    request = {"stream_name": stream, "config": config}
    return await link.call(f"CONSUMER.DURABLE.CREATE.{stream}.{name}", request)
