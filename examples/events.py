"""Events of the program's own go through the same queue as those of the sockets, in order.

An upload is what a client sends until it ends its side; who is interested registers with `on`.

    python examples/events.py 9000 &
    printf 'hello' | nc -N 127.0.0.1 9000
"""

import asyncio
import sys
import threading

import noria

reactor = noria.Reactor()


class Upload(asyncio.Protocol):
    """Takes an upload and tells of it. It knows nothing of those who listen."""

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
    """What takes long belongs in a thread; `emit` may be called from any."""

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
