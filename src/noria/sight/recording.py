"""Recordings: files of records, names and snapshots that the agent writes and `noria report` opens.

A file begins with MAGIC, and has chunks: a header of 16 bytes (u32 type, u32 loop id, u64 length,
in the machine's byte order) and `length` bytes. A chunk of type RECORDS has records of one loop as
events.pxd describes them; one of type JSON an object in UTF-8 whose key "what" says what it is:

    process    pid, command, python, noria, max_block (ns), started
    loop       id, model, thread_name, thread_native_id, header (RingReader.header)
    names      loop, names: [[id, kind, qualified name, file, line], …]
    snapshot   time, loops: see noria.sight.snapshot
    block      loop, and the fields of a Block; "number" if a later one replaces it
    error      loop, and the fields of an ErrorFigures
    dropped    loop, count: records that were overwritten before they could be written here
    loops_lost count: loops of which nothing is in the file, as they could not be read in time
    end        time: the recording was ended, the program was not killed

A "loop" comes before the records of that loop. Chunks of other types, and objects with another
"what", are skipped. A file whose program was killed, or whose disk was full, ends with a part of a
chunk. Whole records in it are read, everything else is ignored.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from noria.errors import RecordingError
from noria.sight.names import Names
from noria.sight.observation import Observation
from noria.sight.observer import Observer
from noria.sight.ring_records import RECORD_SIZE
from noria.sight.settings import MAX_BUFFER

MAGIC = b"noria recording\x01"
RECORDS = 1
JSON = 2
_HEADER = struct.Struct("=IIQ")
_MAX_LOOP = 1 << 20  # loop ids; larger ones are damage
_MAX_RECORDS = MAX_BUFFER  # bytes of a chunk; a larger one is damage


def create_file(path: str | os.PathLike[str]) -> int:
    """Create or truncate the file of a recording, mode 0600. Raises OSError."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_APPEND
    return os.open(path, flags, 0o600)


def write_magic(fd: int) -> None:
    """Write the first bytes of a recording. Raises OSError."""
    write_all(fd, [MAGIC])


def write_records(fd: int, loop: int, records: bytes | memoryview) -> None:
    """Append records of a loop. Raises OSError."""
    if len(records):
        write_all(fd, [_HEADER.pack(RECORDS, loop, len(records)), records])


def write_json(fd: int, what: str, fields: dict[str, Any], loop: int = 0) -> None:
    """Append an object. Raises OSError, and TypeError or ValueError if it is not JSON's."""
    body = json.dumps({"what": what, **fields}, separators=(",", ":")).encode()
    write_encoded(fd, body, loop)


def write_encoded(fd: int, body: bytes, loop: int = 0) -> None:
    """Append an object with a key "what" that is JSON in UTF-8 already. Raises OSError."""
    write_all(fd, [_HEADER.pack(JSON, loop, len(body)), body])


def write_all(fd: int, parts: list[bytes | memoryview]) -> None:
    """Write all of the parts, in one call if the kernel takes them. Raises OSError."""
    done = os.writev(fd, parts)
    for part in parts:
        if done >= len(part):
            done -= len(part)
            continue
        rest = memoryview(part)[done:]
        done = 0
        while len(rest):
            rest = rest[os.write(fd, rest) :]


class Chunk(NamedTuple):
    """One chunk of a recording."""

    kind: int
    loop: int
    offset: int  # in the file, of the body
    body: memoryview


class Recording:
    """An open recording. Its chunks are memoryviews of its bytes: of a mapped file, or others."""

    def __init__(
        self, path: str | os.PathLike[str], view: memoryview, mapped: mmap.mmap | None = None
    ) -> None:
        self.path = Path(path)
        self.size = len(view)
        self.truncated = False  # the last chunk is not complete
        self.ignored = 0  # bytes at the end of a truncated recording
        self._view = view
        self._mapped = mapped
        self._chunks: list[Chunk] = []
        self._records: dict[int, list[memoryview]] = {}
        self.replace_chunks(list(self._read_chunks()))

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Recording:
        """Open a recording. Raises OSError, and RecordingError if the file is not a recording."""
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size < len(MAGIC) or file.read(len(MAGIC)) != MAGIC:
                raise RecordingError(
                    f"{os.fspath(path)} is not a recording: it does not begin with "
                    f"{MAGIC[:-1].decode()!r} and version {MAGIC[-1]}"
                )
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        try:
            return cls(path, memoryview(mapped), mapped)
        except BaseException:
            with contextlib.suppress(BufferError):
                mapped.close()
            raise

    def __enter__(self) -> Recording:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Unmap the file; if chunks of it are still in use, once they are freed."""
        self._chunks, self._records = [], {}
        self._view.release()
        if self._mapped is not None:
            with contextlib.suppress(BufferError):
                self._mapped.close()

    def error(self, offset: int, problem: str) -> RecordingError:
        """Return the error for a problem at an offset."""
        return RecordingError(f"{self.path}: damaged at byte {offset:,}: {problem}")

    def _read_chunks(self) -> Iterator[Chunk]:
        offset = len(MAGIC)
        while offset < self.size:
            if self.size - offset < _HEADER.size:
                self._ignore_from(offset)
                return
            kind, loop, length = _HEADER.unpack_from(self._view, offset)
            body = offset + _HEADER.size
            if not kind or loop > _MAX_LOOP:
                raise self.error(offset, f"a chunk of type {kind} for loop {loop}")
            if kind == RECORDS and length % RECORD_SIZE:
                raise self.error(offset, f"records of {length:,} bytes, not a multiple of 24")
            if length > self.size - body:
                whole = (self.size - body) // RECORD_SIZE * RECORD_SIZE
                if kind == RECORDS and whole and length <= _MAX_RECORDS:
                    yield Chunk(kind, loop, body, self._view[body : body + whole])
                    self._ignore_from(body + whole)
                else:
                    self._ignore_from(offset)
                return
            yield Chunk(kind, loop, body, self._view[body : body + length])
            offset = body + length

    def _ignore_from(self, offset: int) -> None:
        self.truncated = True
        self.ignored = self.size - offset

    def chunks(self) -> Iterator[Chunk]:
        """Yield all chunks in the order of the file."""
        yield from self._chunks

    def replace_chunks(self, chunks: list[Chunk]) -> None:
        """Have the recording consist of other chunks: a part of it, see noria.sight.excerpt."""
        self._chunks, self._records = chunks, {}
        for chunk in chunks:
            if chunk.kind == RECORDS:
                self._records.setdefault(chunk.loop, []).append(chunk.body)

    def records(self, loop: int) -> list[memoryview]:
        """Return the records of a loop, in order, as they lie in the file."""
        return list(self._records.get(loop, ()))

    def objects(self, *wanted: str) -> Iterator[dict[str, Any]]:
        """Yield the JSON objects, only those whose "what" is *wanted*. Raises RecordingError."""
        for chunk in self._chunks:
            if chunk.kind == JSON:
                found = self.decode(chunk)
                if not wanted or found["what"] in wanted:
                    yield found

    def decode(self, chunk: Chunk) -> dict[str, Any]:
        """Return the object of a JSON chunk. Raises RecordingError."""
        try:
            found = json.loads(bytes(chunk.body))
        except (ValueError, RecursionError) as error:
            raise self.error(chunk.offset, f"the text is not JSON ({error})") from None
        if not isinstance(found, dict) or not isinstance(found.get("what"), str):
            raise self.error(chunk.offset, 'the JSON is not an object with a key "what"')
        return found

    def loops(self) -> dict[int, dict[str, Any]]:
        """Return the objects "loop" by id. Raises RecordingError."""
        found = self.objects("loop")
        return {each["id"]: each for each in found if isinstance(each.get("id"), int)}

    def names(self) -> dict[int, Names]:
        """Return the names in the records of each loop. Raises RecordingError."""
        found: dict[int, Names] = {}
        for each in self.objects("names"):
            loop = each.get("loop", 0)
            if isinstance(loop, int) and isinstance(each.get("names"), list):
                found.setdefault(loop, Names()).add(each["names"])
        return found


def feed_recording(observer: Observer, recording: Recording) -> None:
    """Have an observer take all of a recording. Raises RecordingError."""
    for chunk in recording.chunks():
        try:
            if chunk.kind == RECORDS:
                observer.feed_ring(chunk.loop, chunk.body)
            elif chunk.kind == JSON:
                observer.feed_object(recording.decode(chunk))
        except RecordingError as error:
            if str(error).startswith(str(recording.path)):
                raise
            raise recording.error(chunk.offset, str(error)) from None


def observe_recording(path: str | os.PathLike[str]) -> Observation:
    """Return the figures of a recording. Raises OSError, and RecordingError if it is damaged."""
    with Recording.open(path) as recording:
        observer = Observer()
        feed_recording(observer, recording)
        return observer.observe()
