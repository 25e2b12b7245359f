"""The served directory: what is opened lies beneath it, whatever the name and whoever renames.

The kernel does the resolving, openat2(2) with RESOLVE_BENEATH. Where it is missing (before Linux
5.6, or refused by a container), `walk` resolves name by name. Both follow symlinks that are
relative and stay beneath; absolute ones are refused, as they lead out of it at first.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager

from noria.fileserver import syscalls
from noria.fileserver.request_paths import names
from noria.http.messages import HTTPException

LINKS_MAX = 40  # as the kernel: path_resolution(7)
TRIES = 64  # a lookup with ".." in a link while others rename: openat2(2), EAGAIN

_REASONS: dict[int, tuple[int, str]] = {
    errno.ENOENT: (404, "There is nothing of that name."),
    errno.ENOTDIR: (404, "There is nothing of that name: a part of the path is no directory."),
    errno.EXDEV: (403, "That leads out of the served directory."),
    errno.ELOOP: (403, "That is a link that may not be followed."),
    errno.EACCES: (403, "The server may not do that: permission denied."),
    errno.EPERM: (403, "The server may not do that: operation not permitted."),
    errno.EROFS: (403, "The file system is read-only."),
    errno.ENXIO: (403, "That is neither a file nor a directory."),
    errno.ENODEV: (403, "That is neither a file nor a directory."),
    errno.ENAMETOOLONG: (400, "The path is too long."),
    errno.EEXIST: (409, "There is something of that name already."),
    errno.EISDIR: (409, "That is a directory."),
    errno.ENOTEMPTY: (409, "The directory is not empty."),
    errno.EBUSY: (409, "It is in use."),
    errno.ETXTBSY: (409, "It is in use: a program that runs."),
    errno.ENOSPC: (507, "The disk is full."),
    errno.EDQUOT: (507, "The disk quota is used up."),
    errno.EFBIG: (413, "The file is too large for the file system."),
    errno.EAGAIN: (503, "Others rename there at this moment; try again."),
    errno.EMFILE: (503, "The server has too many files open; try again."),
    errno.ENFILE: (503, "The system has too many files open; try again."),
}


def to_http_exception(error: OSError) -> HTTPException:
    """The answer to an error of the kernel."""
    other = (500, f"It failed: {error.strerror or error}.")
    status, detail = _REASONS.get(error.errno or 0, other)
    return HTTPException(status, detail)


class Root:
    """A directory that is served. `native` chooses openat2 (True), `walk` (False), or by a try.

    Raises OSError if `path` is no directory that can be opened.
    """

    def __init__(self, path: str | os.PathLike[str], *, native: bool | None = None):
        self.fd = -1
        self.path = os.path.realpath(path)
        self.fd = os.open(self.path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self.native = self._works() if native is None else native
        self.cached = self.native  # until the kernel says that it does not know RESOLVE_CACHED

    def _works(self) -> bool:
        try:
            os.close(syscalls.openat2(self.fd, b".", os.O_PATH, 0, syscalls.RESOLVE_BENEATH))
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Nothing can be opened any more."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def __del__(self) -> None:
        self.close()

    def open(self, path: str, flags: int, mode: int = 0o666) -> int:
        """open(2) of a URL's path, decoded. Only files and directories; never waits for a FIFO.

        A path that ends in "/" must be a directory. A new file needs O_EXCL. Raises HTTPException.
        """
        parts = names(path)
        if path.endswith("/"):
            flags |= os.O_DIRECTORY
        try:
            return self.open_from(self.fd, parts, flags, mode)
        except OSError as error:
            raise to_http_exception(error) from None

    def open_from(self, top: int, parts: list[str], flags: int, mode: int = 0o666) -> int:
        """The same from an open directory on. Raises OSError."""
        flags |= os.O_CLOEXEC
        if not flags & os.O_PATH:
            flags |= os.O_NONBLOCK | os.O_NOCTTY
        for _ in range(TRIES):
            try:
                if not self.native:
                    return checked(walk(top, parts, flags, mode), flags)
                resolve = syscalls.RESOLVE_BENEATH | syscalls.RESOLVE_NO_MAGICLINKS
                path = os.fsencode("/".join(parts) or ".")
                return checked(syscalls.openat2(top, path, flags, mode, resolve), flags)
            except BlockingIOError:
                continue
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    def open_cached(self, path: str) -> int | None:
        """Opens for reading if the kernel has all names of the path in memory; else None.

        It does not wait for a disk, so that an event loop may call it. Raises HTTPException.
        """
        if not self.cached:
            return None
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
        resolve = (
            syscalls.RESOLVE_BENEATH | syscalls.RESOLVE_NO_MAGICLINKS | syscalls.RESOLVE_CACHED
        )
        try:
            return checked(
                syscalls.openat2(
                    self.fd, os.fsencode("/".join(names(path)) or "."), flags, 0, resolve
                ),
                flags,
            )
        except BlockingIOError:
            return None
        except OSError as error:
            if error.errno == errno.EINVAL:
                self.cached = False
                return None
            raise to_http_exception(error) from None

    def stat(self, path: str) -> os.stat_result:
        """stat(2), with symlinks followed that stay beneath. Raises HTTPException."""
        fd = self.open(path, os.O_PATH)
        try:
            return os.fstat(fd)
        finally:
            os.close(fd)

    def renames_to(self, path: str) -> bool:
        """Whether files at the top can be renamed into the directory `path`: no mount lies between.

        Without openat2 a mount of the same file system is not seen. Raises HTTPException.
        """
        device = self.stat(path).st_dev
        if not self.native:
            return device == os.fstat(self.fd).st_dev
        resolve = (
            syscalls.RESOLVE_BENEATH | syscalls.RESOLVE_NO_MAGICLINKS | syscalls.RESOLVE_NO_XDEV
        )
        inside = os.fsencode("/".join(names(path)) or ".")
        try:
            os.close(syscalls.openat2(self.fd, inside, os.O_PATH | os.O_CLOEXEC, 0, resolve))
        except OSError as error:
            if error.errno == errno.EXDEV:
                return False
            raise to_http_exception(error) from None
        return True

    @contextmanager
    def parent(self, path: str) -> Iterator[tuple[int, str]]:
        """The open directory that `path` is in, and its name there. Raises HTTPException.

        409 if that directory is missing (RFC 4918, 9.7.1), 403 for the served directory itself.
        """
        parts = names(path)
        if not parts:
            raise HTTPException(403, "That cannot be done to the served directory itself.")
        try:
            fd = self.open_from(self.fd, parts[:-1], os.O_RDONLY | os.O_DIRECTORY)
        except (FileNotFoundError, NotADirectoryError):
            raise HTTPException(
                409, "Its directory does not exist: make that first (MKCOL)."
            ) from None
        except OSError as error:
            raise to_http_exception(error) from None
        try:
            yield fd, parts[-1]
        except OSError as error:
            raise to_http_exception(error) from None
        finally:
            os.close(fd)


def checked(fd: int, flags: int) -> int:
    """The descriptor if it is a file's or a directory's; else it is closed. Raises OSError."""
    kind = os.fstat(fd).st_mode
    if stat.S_ISREG(kind) or stat.S_ISDIR(kind) or (stat.S_ISLNK(kind) and flags & os.O_PATH):
        return fd
    os.close(fd)
    raise OSError(errno.ENXIO, os.strerror(errno.ENXIO))


def walk(top: int, parts: list[str], flags: int, mode: int) -> int:
    """Opens what the names lead to from `top` on, with one descriptor held whatever the depth.

    No call follows a link: each name is opened with O_NOFOLLOW and looked at afterwards, and the
    text of a link is resolved here. ".." in a link starts again at `top` and opens the names that
    led to the directory above, so renaming meanwhile cannot make it lead out.

    Raises OSError; EXDEV if it leads out, EAGAIN if names changed meanwhile.
    """
    here = os.dup(top)
    above: list[str] = []  # the names of the directories that led to `here`
    rest = parts[::-1]
    links = 0
    try:
        while rest:
            part = rest.pop()
            if part in ("", "."):  # of a link's text
                continue
            if part == "..":
                back = 1
                while rest and rest[-1] in ("", ".", ".."):
                    back += rest.pop() == ".."
                if back > len(above):
                    raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
                del above[-back:]
                former, here = here, os.dup(top)
                os.close(former)
                for name in above:
                    former, here = here, _directory(here, name)
                    os.close(former)
                continue
            if not rest and flags & os.O_CREAT:
                return os.open(part, flags | os.O_NOFOLLOW, mode, dir_fd=here)
            fd = os.open(part, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=here)
            kind = os.fstat(fd).st_mode
            if stat.S_ISDIR(kind):
                os.close(here)
                here = fd
                above.append(part)
                continue
            try:
                if stat.S_ISLNK(kind):
                    links += 1
                    if links > LINKS_MAX or (flags & os.O_NOFOLLOW and not rest):
                        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
                    text = os.readlink("", dir_fd=fd)
                    if text.startswith("/"):
                        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
                    rest.extend(text.split("/")[::-1])
                    continue
            finally:
                os.close(fd)
            if rest or flags & os.O_DIRECTORY:
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
            if not (stat.S_ISREG(kind)):
                raise OSError(errno.ENXIO, os.strerror(errno.ENXIO))
            return os.open(part, flags | os.O_NOFOLLOW, dir_fd=here)
        return os.open(".", flags & ~os.O_NOFOLLOW, dir_fd=here)
    finally:
        os.close(here)


def _directory(above: int, name: str) -> int:
    """Opens a directory that was there before. Raises OSError, EAGAIN if it is there no more."""
    try:
        return os.open(
            name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=above
        )
    except (FileNotFoundError, NotADirectoryError):
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN)) from None
