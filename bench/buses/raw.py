"""The brokers without a library: copies of an event, and the limit of what they do for one client.

One blocking connection, commands that are encoded once, replies that are counted, not parsed.
"""

from __future__ import annotations

import base64
import json
import re
import subprocess
import time
from typing import Any

from buses import brokers
from buses.peer import CONCURRENCY, PAYLOAD_BYTES, TYPE
from noria.compare.loops.row import Unavailable

# Commands that are sent at once, and how many of them wait for their replies.
BATCH = 200
WINDOW = 5 * BATCH

Result = dict[str, float]


class _Connection:
    def __init__(self, url: str):
        self.sock = brokers.connect(url)

    def receive(self) -> bytes:
        data = self.sock.recv(1 << 18)
        if not data:
            raise Unavailable("the broker closed the connection")
        return data

    def read_until(self, data: bytes, end: bytes) -> bytes:
        while not data.endswith(end):
            data += self.receive()
        return data

    def send_counted(self, batch: bytes, token: bytes, total: int) -> None:
        """Send a batch again and again, WINDOW commands ahead of the replies: the
        occurrences of a byte."""
        ahead = 0
        while total > 0 or ahead > 0:
            if total > 0 and ahead < WINDOW:
                self.sock.sendall(batch)
                total -= BATCH
                ahead += BATCH
            else:
                ahead -= self.receive().count(token)

    def close(self) -> None:
        self.sock.close()


class RedisConnection(_Connection):
    """Redis: XADD, XREADGROUP and XACK."""

    @staticmethod
    def command(*words: bytes | str | int) -> bytes:
        encoded = [word if isinstance(word, bytes) else str(word).encode() for word in words]
        parts = [b"$%d\r\n%b\r\n" % (len(word), word) for word in encoded]
        return b"*%d\r\n%b" % (len(parts), b"".join(parts))

    def copy(self, noria: bool, count: int) -> None:
        """Store copies of the only event of a peer, and create FastStream's group."""
        stream = f"noria:s:{TYPE}" if noria else TYPE
        self.sock.sendall(self.command("XRANGE", stream, "-", "+", "COUNT", 1))
        reply = self.receive()
        # One entry: its id and its fields.
        words = re.findall(rb"\$(\d+)\r\n", reply)
        position = reply.index(b"\r\n", reply.index(b"$")) + 2 + int(words[0]) + 2
        fields = []
        position = reply.index(b"$", position)
        while position < len(reply):
            end = reply.index(b"\r\n", position)
            size = int(reply[position + 1 : end])
            fields.append(reply[end + 2 : end + 2 + size])
            position = end + 4 + size
        self.send_counted(self.command("XADD", stream, "*", *fields) * BATCH, b"$", count)
        if not noria:
            self.sock.sendall(self.command("XGROUP", "CREATE", stream, "bench", 0))
            self.read_until(b"", b"\r\n")

    def handle(self, seconds: float) -> Result:
        """Read and acknowledge what `publish` has stored."""
        self.sock.sendall(self.command("XGROUP", "CREATE", TYPE, "bench", 0, "MKSTREAM"))
        self.read_until(b"", b"\r\n")
        read = self.command(
            *("XREADGROUP", "GROUP", "bench", "one", "COUNT", CONCURRENCY, "STREAMS", TYPE, ">")
        )
        entry = re.compile(rb"\*2\r\n\$\d+\r\n(\d+-\d+)\r\n")
        events, acks = 0, b""
        began = time.perf_counter()
        while time.perf_counter() - began < seconds:
            self.sock.sendall(acks + read)
            data = b""
            ids: list[bytes] = []
            while len(ids) < CONCURRENCY:
                data += self.receive()
                ids = entry.findall(data)
                if data.endswith(b"*-1\r\n"):
                    raise Unavailable("too few events were stored for the limit")
            # The last entry whole.
            self.read_until(data, b"\r\n")
            events += len(ids)
            acks = self.command("XACK", TYPE, "bench", *ids)
        return {"events": events, "seconds": time.perf_counter() - began}


class NatsConnection(_Connection):
    """NATS: publications with an inbox, pulls and acknowledgements."""

    def __init__(self, url: str):
        super().__init__(url)
        self.read_until(b"", b"\r\n")
        options = {"verbose": False, "headers": True, "no_responders": True}
        self.sock.sendall(b"CONNECT %b\r\nSUB in.> 1\r\nPING\r\n" % json.dumps(options).encode())
        self.read_until(b"", b"PONG\r\n")

    def call(self, subject: str, value: Any) -> dict[str, Any]:
        """Call JetStream's API."""
        body = json.dumps(value).encode()
        self.sock.sendall(
            b"PUB $JS.API.%b in.api %d\r\n%b\r\n" % (subject.encode(), len(body), body)
        )
        data = b""
        while not (found := re.match(rb"H?MSG \S+ \d+ (\d+)\r\n", data)) or (
            len(data) < found.end() + int(found[1]) + 2
        ):
            data += self.receive()
        answer: dict[str, Any] = json.loads(data[found.end() :])
        if "error" in answer:
            raise Unavailable(f"JetStream: {answer['error']['description']}")
        return answer

    def copy(self, noria: bool, count: int) -> None:
        """Store copies of the only event of a peer."""
        stream, subject = ("noria", f"noria.e._.{TYPE}") if noria else ("bench", TYPE)
        message = self.call(f"STREAM.MSG.GET.{stream}", {"seq": 1})["message"]
        headers = base64.b64decode(message.get("hdrs", ""))
        # With the id, the copies would be duplicates.
        headers = re.sub(rb"Nats-Msg-Id:[^\r]*\r\n", b"", headers) or b"NATS/1.0\r\n\r\n"
        self.publish_copies(subject, headers, base64.b64decode(message["data"]), count)

    def publish_copies(self, subject: str, headers: bytes, body: bytes, count: int) -> None:
        command = b"HPUB %b in.ack %d %d\r\n%b%b\r\n" % (
            subject.encode(),
            len(headers),
            len(headers) + len(body),
            headers,
            body,
        )
        # An acknowledgement is one JSON object.
        self.send_counted(command * BATCH, b"}", count)

    def create(self) -> None:
        config = {"name": "limit", "subjects": ["limit.>"], "storage": "file"}
        self.call("STREAM.CREATE.limit", config)

    def publish(self, seconds: float) -> Result:
        """Publish with acknowledgements, WINDOW at a time."""
        self.create()
        body = b"x" * PAYLOAD_BYTES
        events = 0
        began = time.perf_counter()
        while time.perf_counter() - began < seconds:
            self.publish_copies("limit.event", b"NATS/1.0\r\n\r\n", body, 10 * WINDOW)
            events += 10 * WINDOW
        return {"events": events, "seconds": time.perf_counter() - began}

    def handle(self, seconds: float) -> Result:
        """Pull and acknowledge what `publish` has stored."""
        config = {"durable_name": "bench", "ack_policy": "explicit", "max_ack_pending": -1}
        request = {"stream_name": "limit", "config": config}
        self.call("CONSUMER.DURABLE.CREATE.limit.bench", request)
        pull = b"PUB $JS.API.CONSUMER.MSG.NEXT.limit.bench in.events 3\r\n%d\r\n" % CONCURRENCY
        reply = re.compile(rb"MSG \S+ \d+ (\$JS\.ACK\S+) ")
        began = time.perf_counter()
        events, data = 0, b""
        self.sock.sendall(pull * 2)
        outstanding = 2 * CONCURRENCY
        while time.perf_counter() - began < seconds:
            data += self.receive()
            found = reply.findall(data)
            whole = data.rfind(b"\r\n") + 2
            data = data[whole:] if whole > 1 else data
            events += len(found)
            outstanding -= len(found)
            command = b"".join(b"PUB %b 0\r\n\r\n" % each for each in found)
            while outstanding <= CONCURRENCY:
                command += pull
                outstanding += CONCURRENCY
            self.sock.sendall(command)
        return {"events": events, "seconds": time.perf_counter() - began}


def connection(url: str) -> RedisConnection | NatsConnection:
    """Return a connection to the broker of a URL."""
    return RedisConnection(url) if url.startswith("redis") else NatsConnection(url)


def redis_benchmark(url: str, requests: int) -> Result:
    """Return what redis-benchmark measures: XADD in pipelines of 100 on four connections."""
    host, port = brokers.address(url)
    words = ["redis-benchmark", "-h", host, "-p", str(port), "-c", "4", "-P", "100", "--csv"]
    words += ["-n", str(requests), "XADD", TYPE, "*", "e", "x" * PAYLOAD_BYTES]
    try:
        done = subprocess.run(words, check=True, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.SubprocessError) as error:
        raise Unavailable(f"redis-benchmark: {error}") from None
    rate = float(done.stdout.strip().splitlines()[-1].split('","')[1])
    return {"events": requests, "seconds": requests / rate}
