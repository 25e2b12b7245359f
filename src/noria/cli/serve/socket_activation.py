"""The listening sockets that systemd passes to a service: sd_listen_fds(3)."""

import os
import socket

from noria.cli.errors import CommandError
from noria.errors import os_error_reason

FIRST_PASSED_FD = 3  # SD_LISTEN_FDS_START


def passed_sockets() -> list[socket.socket]:
    """Return the sockets passed to this process, none without systemd. Raises CommandError."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return []
    try:
        count = int(os.environ.get("LISTEN_FDS", "0"))
    except ValueError:
        raise CommandError("LISTEN_FDS in the environment is not a number") from None
    for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
        os.environ.pop(name, None)  # child processes must not inherit them
    sockets = []
    for fd in range(FIRST_PASSED_FD, FIRST_PASSED_FD + count):
        os.set_inheritable(fd, False)
        try:
            sock = socket.socket(fileno=fd)
        except OSError as error:
            raise CommandError(
                f"descriptor {fd} is not a socket: {os_error_reason(error)}"
            ) from None
        sockets.append(sock)
        if sock.type != socket.SOCK_STREAM or not sock.getsockopt(
            socket.SOL_SOCKET, socket.SO_ACCEPTCONN
        ):
            raise CommandError(
                f"descriptor {fd} is not a listening stream socket",
                "the socket unit needs ListenStream= and Accept=no",
            )
    return sockets
