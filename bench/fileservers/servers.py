"""How each file server is started, and what it serves."""

from __future__ import annotations

import contextlib
import getpass
import importlib.util
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from harness import Unavailable, free_port, serving_port
from rows.row import Place

NORIA, NGINX, PLAIN, UPLOADS = "noria", "nginx", "http.server", "uploadserver"
OLD = "http.server-1.0"  # as it is without an option: a connection for each request
MODELS = ("noria-epoll", "noria-epoll-edge", "noria-io_uring")
SERVERS = (NORIA, NGINX, PLAIN, OLD, UPLOADS)
SMALL_FILES = 100
SMALL_BYTES = 1024
SLOW_BYTES = 16 << 20  # more than the sockets' buffers hold
BLOCK = 1 << 20
MOST = 20_000  # connections

# As Debian's, but for logs and the buffer of an upload; the limits are above what is measured, as
# noria's are here.
CONFIGURATION = """
{user}
daemon off;
worker_processes 1;
worker_rlimit_nofile {files};
pid {own}/pid;
error_log stderr error;
events {{ worker_connections {most}; }}
http {{
    access_log off;
    sendfile on;
    tcp_nopush on;
    default_type application/octet-stream;
    keepalive_requests 1000000000;
    client_max_body_size 0;
    client_body_buffer_size 1m;
    client_body_temp_path {own}/body;
    proxy_temp_path {own}/proxy;
    fastcgi_temp_path {own}/fastcgi;
    uwsgi_temp_path {own}/uwsgi;
    scgi_temp_path {own}/scgi;
    server {{
        listen 127.0.0.1:{port} backlog=1024;
        root {served};
        location / {{
            dav_methods PUT DELETE;
            create_full_put_path on;
        }}
    }}
}}
"""


def served(at: Place, big: int) -> Path:
    """The directory that is served: made at first, in memory, and on the disk."""
    top = at.scratch / "served"
    if not top.exists():
        (top / "small").mkdir(parents=True)
        for number in range(SMALL_FILES):
            (top / "small" / f"{number:02d}").write_bytes(os.urandom(SMALL_BYTES))
        for name, size in (("big", big), ("slow", SLOW_BYTES)):
            with open(top / name, "wb") as file:
                for _ in range(0, size, BLOCK):
                    file.write(os.urandom(BLOCK))
        os.sync()
    return top


def in_memory(path: Path) -> None:
    """Have the kernel hold a file, in case that it needed the room meanwhile."""
    room = bytearray(BLOCK)
    with open(path, "rb", buffering=0) as file:
        while file.readinto(room):
            pass


@contextlib.contextmanager
def serving(server: str, top: Path, at: Place) -> Iterator[tuple[int, int]]:
    """Start a file server on its core; gives the pid of what does the work, and the port."""
    port = free_port()
    with contextlib.ExitStack() as stack:
        own = at.scratch / f"nginx-{port}"
        if server == NGINX:
            stack.callback(shutil.rmtree, own, ignore_errors=True)
            words = nginx(own, top, port)
        else:
            words = command(server, top, port)
        pid, _ = stack.enter_context(serving_port(words, at.server, port))
        yield worker(pid) if server == NGINX else pid, port


def command(server: str, top: Path, port: int) -> list[str]:
    """noria, or a server of the standard library's kind."""
    if server.partition("-")[0] == NORIA:
        words = [sys.executable, "-m", "noria", "serve", "files", str(top), "--upload"]
        words += ["--port", str(port), "--grace", "1", "--model", server[len("noria-") :] or "auto"]
        for limit in ("connections", "per-client", "uploads"):
            words += [f"--max-{limit}", str(MOST)]
        return words
    if server == UPLOADS and importlib.util.find_spec(server) is None:
        raise Unavailable("not installed: pip install uploadserver")
    module = server.partition("-")[0]
    words = [sys.executable, "-m", module, "--bind", "127.0.0.1", "--directory", str(top)]
    if server == PLAIN:
        words += ["--protocol", "HTTP/1.1"]
    return [*words, str(port)]


def nginx(own: Path, top: Path, port: int) -> list[str]:
    """Writes the configuration, below a directory of its own."""
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    if not program:
        raise Unavailable("not installed: apt-get install nginx")
    about = subprocess.run([program, "-V"], capture_output=True, text=True).stderr
    if "--with-http_dav_module" not in about:
        raise Unavailable("it was built without its dav module")
    own.mkdir()
    user = f"user {getpass.getuser()};" if os.geteuid() == 0 else ""
    file = own / "nginx.conf"
    file.write_text(
        CONFIGURATION.format(
            user=user, own=own, served=top, port=port, most=MOST, files=MOST + 1000
        )
    )
    return [program, "-p", str(own), "-c", str(file)]


def worker(master: int) -> int:
    """The pid of nginx's only worker, once it is there."""
    latest = time.monotonic() + 5.0
    while time.monotonic() < latest:
        found = Path(f"/proc/{master}/task/{master}/children").read_text().split()
        if found:
            return int(found[0])
        time.sleep(0.02)
    raise Unavailable("it has no worker")
