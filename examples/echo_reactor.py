"""The echo server of echo_selectors.py on noria.Reactor: the handlers are the same.

python examples/echo_reactor.py 9000 io_uring
"""

import socket
import sys

import noria

reactor = noria.Reactor(sys.argv[2] if sys.argv[2:] else "auto")


def accept(sock, mask):
    conn, _ = sock.accept()
    conn.setblocking(False)
    reactor.register(conn, noria.READ, read)


def read(conn, mask):
    data = conn.recv(1000)
    if data:
        conn.sendall(data)
    else:
        reactor.unregister(conn)
        conn.close()


sock = socket.create_server(("127.0.0.1", int(sys.argv[1]) if sys.argv[1:] else 9000))
sock.setblocking(False)
reactor.register(sock, noria.READ, accept)
print("listening on port", sock.getsockname()[1], flush=True)

reactor.run()
