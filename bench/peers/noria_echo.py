"""The echo protocol on noria: noria_echo.py MODEL [PORT]. Prints "listening PORT MODEL".

SIGTERM stops it.
"""

import sys

from protocol import BACKLOG, Echo, raise_descriptor_limit

import noria


def ready(info: noria.ServerInfo) -> None:
    """Print the port (the last part of "127.0.0.1:PORT") and the model, resolved if `auto`."""
    print("listening", info.addresses[0].rpartition(":")[2], info.model, flush=True)


if __name__ == "__main__":
    model, port = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 0
    raise_descriptor_limit()
    noria.serve(Echo, "127.0.0.1", port, model=model, grace=0.2, backlog=BACKLOG, ready=ready)
