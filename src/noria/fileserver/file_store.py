"""The files of a served directory: what may be stored, how, and who is notified of changes."""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncIterable, Callable

from noria.fileserver.commit import check_replaceable, commit
from noria.fileserver.file_operations import make_parents
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


class FileStore:
    """Stores files below `root` within the limits of a FileService.

    `on_change` has the callbacks that receive the URL path of a directory whose entries changed.
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
        self.on_change: list[Callable[[str], None]] = []

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

    def notify_change(self, path: str) -> None:
        """Report that the entries of the directory `path` changed."""
        for callback in self.on_change:
            callback(path)

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
            await self._make_parents(path)
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
            new, tag = await await_uncancelled(
                run_in_thread(
                    file.finish,
                    last,
                    size=expect_size,
                    sha256=digest,
                    conditions=conditions,
                    overwrite=self.overwrite,
                )
            )
        except BaseException:
            # A call that was cancelled may still run: this waits for it, or runs before it.
            await await_uncancelled(run_in_thread(file.abandon))
            raise
        self.notify_change(parent_directory(path))
        return new, tag

    async def store_existing(
        self,
        source: str,
        path: str,
        *,
        if_match: str = "",
        if_none_match: str = "",
        parents: bool = False,
    ) -> tuple[bool, str]:
        """Like `store`, for a file that is already below the root: sync it and rename it.

        `source` is relative to the root and may be hidden; no symlink in it is followed. The
        quota counts its bytes before and after.
        """
        self.require_writable()
        require_file_path(path)
        if parents:
            await self._make_parents(path)
        conditions = conditions_from(if_match, if_none_match)
        new, tag, freed = await run_in_thread(
            _commit_existing, self.root, source, path, conditions, self.overwrite
        )
        self.quota.release(0, freed)
        self.notify_change(parent_directory(path))
        return new, tag

    async def _make_parents(self, path: str) -> None:
        for made in await run_in_thread(make_parents, self.root, path):
            self.notify_change(parent_directory(made))

    async def remove_stale(self, stopped: Callable[[], bool] = bool) -> int:
        """Remove the partial files that killed processes left; return their number.

        It walks through all directories, in a thread, until `stopped()` is true.
        """
        count: int = await run_in_thread(remove_stale, self.root, stopped)
        return count


def _commit_existing(
    root: Root, source: str, path: str, conditions: Headers, overwrite: bool
) -> tuple[bool, str, int]:
    """In a thread: commit the file `source`, relative to the root, to `path`, as `commit`."""
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
                return commit(
                    here, name, fd, directory, split_path(path)[-1], conditions, overwrite
                )
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
