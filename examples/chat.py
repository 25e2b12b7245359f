"""A chat server: each client's lines go to all others. Needs a model that serves many clients.

python examples/chat.py 9000 epoll
noria connect 127.0.0.1 9000
"""

import asyncio
import sys

import noria

present = set()


class Chat(asyncio.Protocol):
    """One participant."""

    def connection_made(self, transport):
        self.transport = transport
        self.name = "{}:{}".format(*transport.get_extra_info("peername"))
        self.say("has joined")
        present.add(self)

    def data_received(self, data):
        for line in data.decode(errors="replace").splitlines():
            self.say(f"says: {line}")

    def connection_lost(self, error):
        present.discard(self)
        self.say("has left")

    def say(self, text):
        for other in present - {self}:
            other.transport.write(f"{self.name} {text}\n".encode())


noria.serve(
    Chat,
    port=int(sys.argv[1]) if sys.argv[1:] else 9000,
    model=sys.argv[2] if sys.argv[2:] else "auto",
    ready=lambda info: print("listening on port", info.addresses[0].split(":")[1], flush=True),
)
