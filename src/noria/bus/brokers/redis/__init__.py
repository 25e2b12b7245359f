"""The broker on Redis 6.2 or Valkey, by redis-py: `redis://`, `rediss://`, `redis+unix:`.

May import the contract and this folder. `RedisBroker` is in `broker.py`, what a member of a group
does in `consumer.py`, the background task in `keeper.py`, what runs in the server in `scripts.py`.

Layout
    An event without a key is an entry of its type's stream, one with a key of one of the streams of
    the type's partitions. A group has a consumer group in each of them, and a stream of its own for
    the events that it gets again. Delayed events are in one sorted set, and are moved to their
    streams by any worker. Claims are the pending entries of the server: `attempt` is its delivery
    count, `extend` resets the idle time, and what is idle for longer than the claim is taken over.
    A partition belongs to the consumer that has its lease, which the script that claims checks.

Promises
    "The broker has it" is what the server's settings make of it. ``appendfsync always``: what was
    confirmed survives a crash of the machine. ``everysec`` (with ``appendonly yes``): it survives a
    crash of the server, unless an fsync takes long, during which Redis puts off writing for up to 2
    seconds; of a crash of the machine, up to about 2 seconds are lost. RDB snapshots
    alone: what came after the last snapshot is lost when the server ends without one. A failover
    loses what the new master has not received: with ``?replicas=N``, `publish` waits until N
    replicas have the events (WAIT), which makes this improbable, not impossible. Lost
    acknowledgements mean that events are given out again.

Options of the URL
    ``keep``: how long events are kept at most, also those that no group has acknowledged.
    ``partitions``: of keys. ``prefix``: of all keys in the server, ``noria`` by default.
    ``replicas``: see above. ``ca``, ``cert``, ``key``: files for TLS.
"""

from noria.bus.brokers.redis.broker import RedisBroker

__all__ = ["RedisBroker"]
