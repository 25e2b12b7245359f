"""A program's own events share one queue with socket events and are handled in order.

An upload is the data that a client sends until EOF; handlers register with `on`.

    python examples/events.py 9000 &
    printf 'hello' | nc -N 127.0.0.1 9000
"""

import asyncio
import sys
import threading

import noria

reactor = noria.Reactor()


class Upload(asyncio.Protocol):
    """Receives an upload and emits an event. It does not know the event's handlers."""

    def connection_made(self, transport):
        self.transport = transport
        self.size = 0

    def data_received(self, data):
        self.size += len(data)

    def eof_received(self):
        peer = self.transport.get_extra_info("peername")[0]
        reactor.emit("upload.finished", peer=peer, size=self.size)


def log(peer, size):
    print(f"{peer} has sent {size} bytes", flush=True)


def compress(peer, size):
    """Run slow work in a thread; `emit` is thread-safe."""

    def work():
        reactor.emit("upload.compressed", peer=peer, size=size // 2)

    threading.Thread(target=work).start()


def compressed(peer, size):
    print(f"the upload of {peer} takes {size} bytes now", flush=True)


reactor.on("upload.finished", log)
reactor.on("upload.finished", compress)
reactor.on("upload.compressed", compressed)

server = reactor.listen(Upload, port=int(sys.argv[1]) if sys.argv[1:] else 9000)
print("listening on port", server.port, flush=True)
reactor.run()
