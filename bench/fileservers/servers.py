"""Starts each file server and creates the files it serves."""

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
OLD = "http.server-1.0"  # its default: one connection per request
MODELS = ("noria-epoll", "noria-epoll-edge", "noria-io_uring")
SERVERS = (NORIA, NGINX, PLAIN, OLD, UPLOADS)
SMALL_FILES = 100
SMALL_BYTES = 1024
SLOW_BYTES = 16 << 20  # more than the socket buffers hold
BLOCK = 1 << 20
MOST = 20_000  # connections

# Debian's configuration without logs and with a larger upload buffer. Limits are above what is
# measured, as they are for noria here.
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
    """Return the served directory; the first call creates it, cached and synced."""
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


def fill_page_cache(path: Path) -> None:
    """Read a file into the page cache, in case the kernel has evicted it."""
    room = bytearray(BLOCK)
    with open(path, "rb", buffering=0) as file:
        while file.readinto(room):
            pass


@contextlib.contextmanager
def serving(server: str, top: Path, at: Place) -> Iterator[tuple[int, int]]:
    """Start a file server on its core; yields the pid of the serving process and the port."""
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
    """Return the command of noria, http.server or uploadserver."""
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
    """Write nginx's configuration into a new directory and return its command."""
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    if not program:
        raise Unavailable("not installed: apt-get install nginx")
    about = subprocess.run([program, "-V"], capture_output=True, text=True).stderr
    if "--with-http_dav_module" not in about:
        raise Unavailable("nginx was built without its dav module")
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
    """Return the pid of nginx's only worker once it has started."""
    latest = time.monotonic() + 5.0
    while time.monotonic() < latest:
        found = Path(f"/proc/{master}/task/{master}/children").read_text().split()
        if found:
            return int(found[0])
        time.sleep(0.02)
    raise Unavailable("nginx started no worker within 5 s")
