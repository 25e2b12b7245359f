"""What a broker and its consumers share."""

from __future__ import annotations

from typing import Any

from noria.bus.brokers.redis import resp, scripts
from noria.bus.brokers.redis.connection import Link, Servers
from noria.bus.brokers.redis.keeper import Keeper
from noria.bus.brokers.redis.names import Names


class Shared:
    """The state of a connected broker.

    `commands`: the connection for all that is short; publications have their own, as a large one
    would delay acknowledgements.
    """

    def __init__(self, servers: Servers, commands: Link, names: Names):
        self.servers = servers
        self.commands = commands
        self.names = names
        self.keeper = Keeper(commands, names)
        self.consumers: set[Any] = set()

    def register(self, type: str, keyed: bool = False) -> bytes:
        """Return the command that registers a type."""
        names = self.names
        keys = [names.types, names.keyed, names.new]
        return resp.script(scripts.REGISTER, keys, [type, "1" if keyed else "0"])
