"""An echo server on the standard selectors module, in its usual form.

python examples/echo_selectors.py 9000
"""

import selectors
import socket
import sys

sel = selectors.DefaultSelector()


def accept(sock, mask):
    conn, _ = sock.accept()
    conn.setblocking(False)
    sel.register(conn, selectors.EVENT_READ, read)


def read(conn, mask):
    data = conn.recv(1000)
    if data:
        conn.sendall(data)
    else:
        sel.unregister(conn)
        conn.close()


sock = socket.create_server(("127.0.0.1", int(sys.argv[1]) if sys.argv[1:] else 9000))
sock.setblocking(False)
sel.register(sock, selectors.EVENT_READ, accept)
print("listening on port", sock.getsockname()[1], flush=True)

while True:
    for key, mask in sel.select():
        key.data(key.fileobj, mask)
