"""A small file server for tests of clients: one directory, threads, faults on demand."""

from __future__ import annotations

import base64
import contextlib
import errno
import hashlib
import itertools
import json
import shutil
import socket
import threading
from collections import Counter
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit


class Server(ThreadingHTTPServer):
    """Serves `root`. `faults` maps a method to what happens to its next requests, in order:

    a status number sends it with an empty body; ("cut", n) closes the connection after n bytes
    of the body were sent or received. `seen` has (method, path, headers) of each request.
    """

    daemon_threads = False
    request_queue_size = 64

    def __init__(self, root: Path, **options):
        super().__init__(("127.0.0.1", 0), Handler)
        self.root = root
        self.faults: dict[str, list] = {}
        self.seen: list[tuple[str, str, dict]] = []
        self.uploads: dict[str, dict] = {}
        self.numbers = itertools.count(1)
        self.tus = options.get("tus", True)
        self.digests = options.get("digests", True)
        self.etags = options.get("etags", True)
        self.login = options.get("login", "")
        self.slow = options.get("slow", 0.0)  # seconds that each PATCH takes
        self.page = options.get("page")
        self.listings = options.get("listings", {})  # path: entries, instead of the real ones
        self.forbidden: set[str] = set()  # paths that get 403
        self.ended = threading.Event()
        self.connections: set[socket.socket] = set()
        self.changed = threading.Condition()
        self.changes = Counter()
        self.followed: set[str] = set()  # directories with a client that follows changes
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def __enter__(self):
        self.thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.ended.set()
        self.shutdown()
        self.thread.join()
        for connection in list(self.connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self.server_close()

    def process_request(self, request, client_address):
        self.connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request):
        self.connections.discard(request)
        super().shutdown_request(request)

    def methods(self) -> Counter:
        return Counter(method for method, _, _ in self.seen)

    def handle_error(self, request, client_address):
        """Ignore errors of clients that disconnect midway, as the tests make them do."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 5  # seconds that an idle connection stays open
    disable_nagle_algorithm = True

    def log_message(self, *_):
        pass

    def __getattr__(self, name):
        if name.startswith("do_"):
            return self.any
        raise AttributeError(name)

    def any(self):
        self.path, _, self.query = self.path.partition("?")
        self.server.seen.append((self.command, self.path, dict(self.headers)))
        faults = self.server.faults.get(self.command)
        self.fault = faults.pop(0) if faults else None
        if isinstance(self.fault, int):
            self.body()
            return self.answer(self.fault, retry_after="0")
        if self.server.login and self.headers.get("Authorization") != self.server.login:
            self.body()
            return self.answer(401, b"who are you?", content_type="text/plain")
        if self.path in self.server.forbidden:
            self.body()
            return self.answer(403, b"not for you", content_type="text/plain")
        if self.path.startswith("/-/uploads/"):
            return getattr(self, f"tus_{self.command.lower()}")()
        if self.path.startswith("/-/"):
            return self.own()
        self.file = self.server.root / unquote(self.path).lstrip("/")
        return getattr(self, f"file_{self.command.lower()}")()

    # The answers

    def answer(self, status, body=b"", **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if status not in (204, 304):
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if isinstance(self.fault, tuple):
            self.wfile.write(body[: self.fault[1]])
            self.close_connection = True
        else:
            self.wfile.write(body)

    def body(self):
        """Return the request body, or its first bytes with a "cut" fault."""
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        length = int(self.headers.get("Content-Length", 0))
        if isinstance(self.fault, tuple):
            self.close_connection = True
            return self.rfile.read(min(length, self.fault[1]))
        return self.rfile.read(length)

    def etag(self):
        state = self.file.stat()
        return f'"{state.st_ino:x}-{state.st_mtime_ns:x}"'

    def tell(self, directory):
        with self.server.changed:
            self.server.changes[directory] += 1
            self.server.changed.notify_all()

    def own(self):
        from importlib.resources import files

        if self.path == "/-/events":
            return self.events(unquote(self.query.partition("=")[2]))
        name = self.path.rpartition("/")[2]
        kind = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
        asset = files("noria.fileserver.web").joinpath("static", name)
        ending = name.rpartition(".")[2]
        return self.answer(200, asset.read_bytes(), content_type=kind[ending])

    def events(self, directory):
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        self.wfile.write(b": hello\n\n")
        seen = self.server.changes[directory]
        self.server.followed.add(directory)
        while not self.server.ended.is_set():
            with self.server.changed:
                self.server.changed.wait(0.05)
            if self.server.changes[directory] != seen:
                seen = self.server.changes[directory]
                self.wfile.write(b"event: change\ndata: %s\n\n" % json.dumps(directory).encode())
            else:
                self.wfile.write(b":\n\n")

    # Files and directories

    def file_head(self):
        self.file_get()

    def file_get(self):
        if self.file.is_dir():
            return self.listing()
        if not self.file.is_file():
            return self.answer(404, b"there is no such file", content_type="text/plain")
        data = self.file.read_bytes()
        headers = {"last_modified": formatdate(self.file.stat().st_mtime, usegmt=True)}
        if self.server.etags:
            headers["etag"] = self.etag()
        if self.server.digests:
            sum = base64.b64encode(hashlib.sha256(data).digest()).decode()
            headers["repr_digest"] = f"sha-256=:{sum}:"
        asked = self.headers.get("Range")
        if asked and self.headers.get("If-Range", self.etag()) == self.etag():
            start = int(asked.removeprefix("bytes=").rstrip("-"))
            if start >= len(data):
                return self.answer(416, content_range=f"bytes */{len(data)}", **headers)
            headers["content_range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            return self.answer(206, data[start:], **headers)
        return self.answer(200, data, **headers)

    def listing(self):
        if self.query:  # an archive, say
            return self.answer(200, self.query.encode(), content_type="application/x-tar")
        if not self.path.endswith("/"):
            return self.answer(308, location=self.path + "/")
        entries = self.server.listings.get(self.path)
        if entries is None:
            entries = [
                {
                    "name": each.name,
                    "type": "directory" if each.is_dir() else "file",
                    "size": each.stat().st_size,
                    "modified": each.stat().st_mtime,
                }
                for each in self.file.iterdir()
            ]
        found = {"path": unquote(self.path), "writable": True, "entries": entries}
        if "application/json" in self.headers.get("Accept", "") or self.server.page is None:
            return self.answer(200, json.dumps(found).encode(), content_type="application/json")
        return self.answer(
            200,
            self.server.page(found, uploads=True),
            content_type="text/html; charset=utf-8",
            content_security_policy="default-src 'none'; script-src 'self'; style-src 'self'; "
            "img-src 'self'; connect-src 'self'; form-action 'self'",
        )

    def refuses(self):
        """Return whether a precondition of the request fails (RFC 9110, section 13)."""
        there = self.file.exists()
        if self.headers.get("If-None-Match") == "*" and there:
            return True
        match = self.headers.get("If-Match")
        return bool(match) and (not there or match != self.etag())

    def file_put(self):
        data = self.body()
        if isinstance(self.fault, tuple):
            return None
        if self.refuses():
            return self.answer(412)
        if not self.file.parent.is_dir():
            return self.answer(409, b"there is no such directory", content_type="text/plain")
        metadata = self.headers.get("X-Checksum-Sha256")
        if metadata and metadata != hashlib.sha256(data).hexdigest():
            return self.answer(400)
        created = not self.file.exists()
        self.file.write_bytes(data)
        self.tell(unquote(urlsplit(self.path).path.rpartition("/")[0]) + "/")
        return self.answer(201 if created else 204)

    def file_mkcol(self):
        self.body()
        if self.file.exists():
            return self.answer(405)
        if not self.file.parent.is_dir():
            return self.answer(409, b"there is no such directory", content_type="text/plain")
        self.file.mkdir()
        self.tell(unquote(self.path.rstrip("/").rpartition("/")[0]) + "/")
        return self.answer(201)

    def file_delete(self):
        self.body()
        if not self.file.exists():
            return self.answer(404)
        if self.file.is_dir():
            shutil.rmtree(self.file)
        else:
            self.file.unlink()
        self.tell(unquote(self.path.rstrip("/").rpartition("/")[0]) + "/")
        return self.answer(204)

    def file_move(self):
        self.body()
        target = self.server.root / unquote(urlsplit(self.headers["Destination"]).path).lstrip("/")
        if target.exists():
            return self.answer(412)
        self.file.rename(target)
        self.tell(unquote(self.path.rstrip("/").rpartition("/")[0]) + "/")
        return self.answer(201)

    # tus 1.0

    def tus_options(self):
        self.body()
        if not self.server.tus:
            return self.answer(404)
        return self.answer(
            204,
            tus_version="1.0.0",
            tus_extension="creation,checksum,termination",
            tus_checksum_algorithm="sha1,sha256",
        )

    def tus_post(self):
        self.body()
        fields = dict(pair.split(" ") for pair in self.headers["Upload-Metadata"].split(","))
        metadata = {key: base64.b64decode(value).decode() for key, value in fields.items()}
        self.path = metadata["directory"] + metadata["filename"]
        self.file = self.server.root / self.path.lstrip("/")
        if self.file.exists():  # this server ignores preconditions here
            return self.answer(409)
        number = str(next(self.server.numbers))
        length = int(self.headers["Upload-Length"])
        self.server.uploads[number] = {"file": self.file, "length": length, "data": b""}
        self.finish(number)
        return self.answer(201, location=f"/-/uploads/{number}")

    def finish(self, number):
        upload = self.server.uploads[number]
        if len(upload["data"]) == upload["length"]:
            upload["file"].parent.mkdir(parents=True, exist_ok=True)
            upload["file"].write_bytes(upload["data"])
            self.tell("/" + quote(str(upload["file"].parent.relative_to(self.server.root))) + "/")
            self.tell("/")

    def tus_head(self):
        upload = self.server.uploads.get(self.path.rpartition("/")[2])
        if upload is None:
            return self.answer(404)
        return self.answer(
            200, upload_offset=str(len(upload["data"])), upload_length=str(upload["length"])
        )

    def tus_delete(self):
        self.server.uploads.pop(self.path.rpartition("/")[2], None)
        return self.answer(204)

    def tus_patch(self):
        number = self.path.rpartition("/")[2]
        upload = self.server.uploads.get(number)
        if upload is None:
            self.body()
            return self.answer(404)
        self.server.ended.wait(self.server.slow)
        data = self.body()
        if int(self.headers["Upload-Offset"]) != len(upload["data"]):
            return self.answer(409, upload_offset=str(len(upload["data"])))
        metadata = self.headers.get("Upload-Checksum", "")
        if metadata and not isinstance(self.fault, tuple):
            sum = base64.b64encode(hashlib.sha256(data).digest()).decode()
            if metadata != f"sha256 {sum}":
                return self.answer(460)
        if metadata and isinstance(self.fault, tuple):
            return None  # data that cannot be verified is discarded
        upload["data"] += data
        if isinstance(self.fault, tuple):
            return None
        self.finish(number)
        return self.answer(204, upload_offset=str(len(upload["data"])))


def keep_secret(monkeypatch):
    """Let `put` fail to read files named `secret`: chmod(2) does not stop root from reading."""
    from noria.transfer import worker_thread  # needs httpx

    hash_path = worker_thread._hash_path

    def refuse_secret(path, *args, **options):
        if path.name == "secret":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return hash_path(path, *args, **options)

    monkeypatch.setattr(worker_thread, "_hash_path", refuse_secret)
