"""NATS JetStream: ``nats://HOST:4222``, through nats-py. `broker` says what is stored where.

`connection` has the round trips, `source` the pulls of one JetStream consumer, `consumer` the
members of groups, `keys` and `leases` the order within keys, `delays` the delayed events.
"""
