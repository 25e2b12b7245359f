"""The files of a served directory: what may be stored, how, and who is notified of changes."""

from __future__ import annotations

import asyncio
import errno
import os
import stat
from collections.abc import AsyncIterable, Callable
from functools import partial
from typing import Any, TypeVar

from noria.fileserver import file_operations
from noria.fileserver.changes import Change
from noria.fileserver.commit import check_replaceable, commit
from noria.fileserver.partial_file import PartialFile, too_large
from noria.fileserver.quota import Quota, check_disk
from noria.fileserver.request_headers import conditions_from
from noria.fileserver.request_paths import parent_directory, require_file_path, split_path
from noria.fileserver.root import Root, to_http_exception
from noria.fileserver.stale_files import remove_stale
from noria.http import digests
from noria.http.body_to_file import write_body
from noria.http.conditional import require_preconditions
from noria.http.messages import Headers, HTTPException
from noria.http.worker_threads import await_uncancelled, run_in_thread

T = TypeVar("T")


class FileStore:
    """Stores files below `root` within the limits of a FileService.

    `on_change` has the callbacks that receive each Change, in the loop's thread, when it is durable
    and before the request is answered. In all methods, `user` is the name of the client.
    """

    def __init__(
        self,
        root: Root,
        quota: Quota,
        *,
        uploads: bool,
        overwrite: bool,
        read_only: bool,
        max_size: int | None,
        disk_floor: int,
    ):
        self.root = root
        self.quota = quota
        self.uploads = uploads
        self.overwrite = overwrite
        self.read_only = read_only
        self.max_size = max_size
        self.disk_floor = disk_floor
        self.on_change: list[Callable[[Change], None]] = []
        self._running: set[asyncio.Future[Any]] = set()

    @property
    def writable(self) -> bool:
        """Whether changes are allowed."""
        return self.uploads and not self.read_only

    def require_writable(self) -> None:
        """Raise HTTPException 403 unless changes are allowed."""
        if self.read_only:
            raise HTTPException(403, "The server is read-only (--read-only).")
        if not self.uploads:
            raise HTTPException(403, "Changes are disabled: start the server with --upload.")

    async def _run_change(self, function: Callable[[list[Change]], T]) -> T:
        """Call a function in a thread, and report what it appends to its list.

        It appends a Change as soon as that is durable. The changes are reported even if the
        function raises afterwards, or the caller is cancelled: the disk has them.
        """
        changes: list[Change] = []
        work = run_in_thread(function, changes)
        self._running.add(work)
        work.add_done_callback(partial(self._report, changes))
        return await await_uncancelled(work)

    async def wait_for_changes(self) -> None:
        """Wait for the changes under way in threads, also those whose caller was cancelled."""
        if self._running:
            await asyncio.wait(self._running)

    def _report(self, changes: list[Change], work: asyncio.Future[Any]) -> None:
        self._running.discard(work)
        for change in changes:
            for callback in self.on_change:
                callback(change)

    def check_preconditions(
        self, path: str, *, if_match: str = "", if_none_match: str = ""
    ) -> None:
        """In a thread: raise the HTTPException 409 or 412 that `store` would raise now."""
        conditions = conditions_from(if_match, if_none_match)
        try:
            directory = self.root.open(parent_directory(path), os.O_RDONLY | os.O_DIRECTORY)
        except HTTPException as error:
            if error.status != 404:
                raise
            require_preconditions(conditions, None)
            return
        try:
            check_replaceable(directory, split_path(path)[-1], conditions, self.overwrite)
        except OSError as error:
            raise to_http_exception(error) from None
        finally:
            os.close(directory)

    async def check_space(self, path: str, size: int) -> None:
        """Raise HTTPException 413 or 507 if a file of `size` bytes does not fit at `path`."""
        if self.max_size is not None and size > self.max_size:
            raise HTTPException(413, too_large(self.max_size))
        await run_in_thread(self._check_space, path, size)

    def _check_space(self, path: str, size: int) -> None:
        with self.root.parent(path) as (directory, _):
            check_disk(directory, size, self.disk_floor)
        self.quota.check(size)

    async def store(
        self,
        path: str,
        chunks: AsyncIterable[bytes],
        *,
        if_match: str = "",
        if_none_match: str = "",
        expect_size: int | None = None,
        sha256: str | bytes | None = None,
        parents: bool = False,
        user: str = "",
    ) -> tuple[bool, str]:
        """Store a file; return (whether it is new, its entity tag) when it is durable.

        It replaces a file only with the option `overwrite` or if `if_match` has that file's tag,
        and never if `if_none_match` has it. Both are checked before the first byte and at the end.
        `expect_size`: bytes; `sha256`: digest, raw or in hexadecimal; `parents`: create missing
        directories above the file. If it fails or is cancelled, nothing is left.
        Raises HTTPException.
        """
        self.require_writable()
        require_file_path(path)
        if parents:
            await self._make_parents(path, user)
        if expect_size is not None:
            await self.check_space(path, expect_size)
        digest = digests.require_hex_sha256(sha256) if isinstance(sha256, str) else sha256
        file = PartialFile(
            self.root,
            path,
            self.quota,
            max_size=self.max_size,
            floor=self.disk_floor,
            hashed=digest is not None,
        )
        conditions = conditions_from(if_match, if_none_match)
        try:
            await await_uncancelled(run_in_thread(file.open, conditions, self.overwrite))
            last: list[bytes] = []
            # To compute a digest, the bytes must pass through this process.
            await write_body(chunks, file.write, file.move if digest is None else None, last)

            def finish(changes: list[Change]) -> tuple[bool, str]:
                finished = file.finish(
                    last,
                    size=expect_size,
                    sha256=digest,
                    conditions=conditions,
                    overwrite=self.overwrite,
                )
                if finished is None:  # abandoned: the task was cancelled
                    return False, ""
                new, tag = finished
                changes.append(_stored(new, path, file.size, tag, digest, user))
                return finished

            return await self._run_change(finish)
        except BaseException:
            # A call that was cancelled may still run: this waits for it, or runs before it.
            await await_uncancelled(run_in_thread(file.abandon))
            raise

    async def store_existing(
        self,
        source: str,
        path: str,
        *,
        if_match: str = "",
        if_none_match: str = "",
        parents: bool = False,
        user: str = "",
    ) -> tuple[bool, str]:
        """Like `store`, for a file that is already below the root: sync it and rename it.

        `source` is relative to the root and may be hidden; no symlink in it is followed. The
        quota counts its bytes before and after.
        """
        self.require_writable()
        require_file_path(path)
        if parents:
            await self._make_parents(path, user)
        conditions = conditions_from(if_match, if_none_match)

        def finish(changes: list[Change]) -> tuple[bool, str]:
            new, tag, freed, size = _commit_existing(
                self.root, source, path, conditions, self.overwrite
            )
            self.quota.release(0, freed)
            changes.append(_stored(new, path, size, tag, None, user))
            return new, tag

        return await self._run_change(finish)

    async def _make_parents(self, path: str, user: str) -> None:
        def make(changes: list[Change]) -> None:
            # Not list.extend: those made before an error are reported.
            for each in file_operations.make_parents(self.root, path):
                changes.append(Change("created", each, user=user))  # noqa: PERF401

        await self._run_change(make)

    async def make_directory(self, path: str, *, user: str = "") -> None:
        """Create a directory. Raises HTTPException."""
        self.require_writable()

        def make(changes: list[Change]) -> None:
            file_operations.make_directory(self.root, path)
            changes.append(Change("created", _as_directory(path), user=user))

        await self._run_change(make)

    async def remove(self, path: str, conditions: Headers, *, user: str = "") -> None:
        """Remove a file or an empty directory. Raises HTTPException."""
        self.require_writable()

        def remove(changes: list[Change]) -> None:
            status = file_operations.remove(self.root, path, conditions)
            if stat.S_ISDIR(status.st_mode):
                changes.append(Change("deleted", _as_directory(path), user=user))
            else:
                self.quota.release(0, status.st_size)
                changes.append(Change("deleted", path, status.st_size, user=user))

        await self._run_change(remove)

    async def move(
        self, path: str, target: str, conditions: Headers, *, overwrite: bool, user: str = ""
    ) -> bool:
        """Rename a file or directory; return whether `target` is new.

        A file is replaced only with both `overwrite` and the option `overwrite`. Raises
        HTTPException.
        """
        self.require_writable()

        def move(changes: list[Change]) -> bool:
            status, replaced = file_operations.move(
                self.root, path, target, conditions, overwrite and self.overwrite
            )
            if stat.S_ISDIR(status.st_mode):
                old, new, size = _as_directory(path), _as_directory(target), 0
            else:
                old, new, size = path, target, status.st_size
            if replaced is not None:
                self.quota.release(0, replaced.st_size)
            overwritten = replaced is not None
            changes.append(
                Change("moved", new, size, old_path=old, overwritten=overwritten, user=user)
            )
            return not overwritten

        return await self._run_change(move)

    async def remove_stale(self, stopped: Callable[[], bool] = bool) -> int:
        """Remove the partial files that killed processes left; return their number.

        It walks through all directories, in a thread, until `stopped()` is true.
        """
        count: int = await run_in_thread(remove_stale, self.root, stopped)
        return count


def _stored(new: bool, path: str, size: int, tag: str, sha256: bytes | None, user: str) -> Change:
    return Change("created" if new else "replaced", path, size, tag, sha256, user=user)


def _as_directory(path: str) -> str:
    return path.rstrip("/") + "/"


def _commit_existing(
    root: Root, source: str, path: str, conditions: Headers, overwrite: bool
) -> tuple[bool, str, int, int]:
    """In a thread: commit the file `source`, relative to the root, to `path`.

    Returns what `commit` does, and the size of the file.
    """
    *above, name = source.strip("/").split("/")
    try:
        with root.parent(path) as (directory, _):
            here = os.open(root.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fd = -1
            try:
                for each in above:
                    inner = os.open(
                        each,
                        os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC,
                        dir_fd=here,
                    )
                    os.close(here)
                    here = inner
                fd = os.open(
                    name,
                    os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC,
                    dir_fd=here,
                )
                new, tag, freed = commit(
                    here, name, fd, directory, split_path(path)[-1], conditions, overwrite
                )
                return new, tag, freed, os.fstat(fd).st_size
            finally:
                os.close(here)
                if fd >= 0:
                    os.close(fd)
    except OSError as error:
        if error.errno == errno.EXDEV:
            raise HTTPException(
                409, "That directory is on another file system than the uploads: send by PUT."
            ) from None
        raise to_http_exception(error) from None
