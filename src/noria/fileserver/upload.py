"""An upload as the event loop sees it: every step of it is a thread's."""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncIterable

from noria.fileserver.quota import Quota
from noria.fileserver.request_paths import names
from noria.fileserver.root import Root, to_http_exception
from noria.fileserver.storage import Part, commit
from noria.http.body_to_file import write_body
from noria.http.messages import Headers, HTTPException
from noria.http.worker_threads import await_uncancelled, run_in_thread


class Put:
    """One file on its way into `path`; the limits as of FileService. Raises HTTPException."""

    def __init__(
        self,
        root: Root,
        path: str,
        quota: Quota,
        *,
        max_size: int | None,
        floor: int,
        sha256: bytes | None,
    ):
        self._sha256 = sha256
        self._part = Part(
            root, path, quota, max_size=max_size, floor=floor, hashed=sha256 is not None
        )

    async def run(
        self,
        chunks: AsyncIterable[bytes],
        size: int | None,
        conditions: Headers,
        overwrite: bool,
    ) -> tuple[bool, str]:
        """Takes all of `chunks`; gives (new, entity tag). What fails or is cancelled is undone."""
        part = self._part
        try:
            await await_uncancelled(run_in_thread(part.open, conditions, overwrite))
            last: list[bytes] = []
            # Who computes a digest has to see the bytes.
            await write_body(chunks, part.write, part.move if self._sha256 is None else None, last)
            return await await_uncancelled(
                run_in_thread(
                    part.finish,
                    last,
                    size=size,
                    sha256=self._sha256,
                    conditions=conditions,
                    overwrite=overwrite,
                )
            )
        except BaseException:
            # A cancelled call may still be at work: this waits for it, or goes before it.
            await await_uncancelled(run_in_thread(part.abandon))
            raise

    @staticmethod
    def adopt(
        root: Root, source: str, path: str, conditions: Headers, overwrite: bool
    ) -> tuple[bool, str, int]:
        """In a thread: syncs and renames the file `source`, relative to the root, to `path`.

        Gives as `commit` does.
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
                    return commit(here, name, fd, directory, names(path)[-1], conditions, overwrite)
                finally:
                    os.close(here)
                    if fd >= 0:
                        os.close(fd)
        except OSError as error:
            if error.errno == errno.EXDEV:
                raise HTTPException(
                    409, "The upload lies on another file system than that."
                ) from None
            raise to_http_exception(error) from None
