"""The served directory: files are opened below it only, even while names are being changed.

The kernel resolves paths: openat2(2) with RESOLVE_BENEATH. Where that is missing (before Linux 5.6,
or refused by a container), `walk` resolves one name at a time. Both follow relative symlinks that
stay below the directory, and refuse absolute ones.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager

from noria.fileserver import syscalls
from noria.fileserver.request_paths import split_path
from noria.http.messages import HTTPException

MAX_SYMLINKS = 40  # as in the kernel: path_resolution(7)
# Attempts of a lookup that fails with EAGAIN: a symlink has ".." and a name changed, openat2(2).
MAX_ATTEMPTS = 64

_REASONS: dict[int, tuple[int, str]] = {
    errno.ENOENT: (404, "There is no such file or directory."),
    errno.ENOTDIR: (404, "There is no such file: a part of the path is not a directory."),
    errno.EXDEV: (403, "The path leads out of the served directory."),
    errno.ELOOP: (403, "The path has a symbolic link that cannot be followed."),
    errno.EACCES: (403, "The server has no permission to do that."),
    errno.EPERM: (403, "The operation is not permitted."),
    errno.EROFS: (403, "The file system is read-only."),
    errno.ENXIO: (403, "The path is neither a file nor a directory."),
    errno.ENODEV: (403, "The path is neither a file nor a directory."),
    errno.ENAMETOOLONG: (400, "The path is too long."),
    errno.EEXIST: (409, "A file or directory with that name already exists."),
    errno.EISDIR: (409, "The path is a directory."),
    errno.ENOTEMPTY: (409, "The directory is not empty."),
    errno.EBUSY: (409, "The file or directory is in use."),
    errno.ETXTBSY: (409, "The file is a program that is running."),
    errno.ENOSPC: (507, "The disk is full."),
    errno.EDQUOT: (507, "The disk quota is used up."),
    errno.EFBIG: (413, "The file is too large for the file system."),
    errno.EAGAIN: (503, "Names in the path are being changed; try again."),
    errno.EMFILE: (503, "The server has too many open files; try again later."),
    errno.ENFILE: (503, "The system has too many open files; try again later."),
}


def to_http_exception(error: OSError) -> HTTPException:
    """The HTTPException for an error of the kernel."""
    other = (500, f"The operation failed: {error.strerror or error}.")
    status, detail = _REASONS.get(error.errno or 0, other)
    return HTTPException(status, detail)


class Root:
    """The served directory.

    `native`: use openat2 (True), `walk` (False), or openat2 if it works (None). Raises OSError if
    `path` cannot be opened as a directory.
    """

    def __init__(self, path: str | os.PathLike[str], *, native: bool | None = None):
        self.fd = -1
        self.path = os.path.realpath(path)
        self.fd = os.open(self.path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self.native = self._has_openat2() if native is None else native
        # False once the kernel has rejected RESOLVE_CACHED.
        self.cached = self.native

    def _has_openat2(self) -> bool:
        try:
            os.close(syscalls.openat2(self.fd, b".", os.O_PATH, 0, syscalls.RESOLVE_BENEATH))
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Close the directory; nothing can be opened afterwards."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def __del__(self) -> None:
        self.close()

    def open(self, path: str, flags: int, mode: int = 0o666) -> int:
        """open(2) of the decoded path of a URL. Opens files and directories only.

        A path that ends in "/" must be a directory. Creating a file needs O_EXCL. Raises
        HTTPException.
        """
        parts = split_path(path)
        if path.endswith("/"):
            flags |= os.O_DIRECTORY
        try:
            return self.open_from(self.fd, parts, flags, mode)
        except OSError as error:
            raise to_http_exception(error) from None

    def open_from(self, top: int, parts: list[str], flags: int, mode: int = 0o666) -> int:
        """`open` of names below the open directory `top`. Raises OSError."""
        flags |= os.O_CLOEXEC
        if not flags & os.O_PATH:
            flags |= os.O_NONBLOCK | os.O_NOCTTY
        for _ in range(MAX_ATTEMPTS):
            try:
                if not self.native:
                    return require_file_or_directory(walk(top, parts, flags, mode), flags)
                resolve = syscalls.RESOLVE_BENEATH | syscalls.RESOLVE_NO_MAGICLINKS
                path = os.fsencode("/".join(parts) or ".")
                return require_file_or_directory(
                    syscalls.openat2(top, path, flags, mode, resolve), flags
                )
            except BlockingIOError:
                continue
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    def open_cached(self, path: str) -> int | None:
        """Open for reading if the kernel has all names of the path in memory; else return None.

        It does not wait for the disk, so that an event loop can call it. Raises HTTPException.
        """
        if not self.cached:
            return None
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
        resolve = (
            syscalls.RESOLVE_BENEATH | syscalls.RESOLVE_NO_MAGICLINKS | syscalls.RESOLVE_CACHED
        )
        try:
            return require_file_or_directory(
                syscalls.openat2(
                    self.fd, os.fsencode("/".join(split_path(path)) or "."), flags, 0, resolve
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
        """stat(2). It follows symlinks that stay below the root. Raises HTTPException."""
        fd = self.open(path, os.O_PATH)
        try:
            return os.fstat(fd)
        finally:
            os.close(fd)

    def renames_to(self, path: str) -> bool:
        """Whether files at the top can be renamed into the directory `path`: no mount is between.

        Without openat2 a mount of the same file system is not detected. Raises HTTPException.
        """
        device = self.stat(path).st_dev
        if not self.native:
            return device == os.fstat(self.fd).st_dev
        resolve = (
            syscalls.RESOLVE_BENEATH | syscalls.RESOLVE_NO_MAGICLINKS | syscalls.RESOLVE_NO_XDEV
        )
        inside = os.fsencode("/".join(split_path(path)) or ".")
        try:
            os.close(syscalls.openat2(self.fd, inside, os.O_PATH | os.O_CLOEXEC, 0, resolve))
        except OSError as error:
            if error.errno == errno.EXDEV:
                return False
            raise to_http_exception(error) from None
        return True

    @contextmanager
    def parent(self, path: str) -> Iterator[tuple[int, str]]:
        """The open directory that `path` is in, and the name there.

        Raises HTTPException, with 409 if that directory is missing (RFC 4918, 9.7.1) and 403 for
        the served directory itself.
        """
        parts = split_path(path)
        if not parts:
            raise HTTPException(403, "The served directory itself cannot be changed.")
        try:
            fd = self.open_from(self.fd, parts[:-1], os.O_RDONLY | os.O_DIRECTORY)
        except (FileNotFoundError, NotADirectoryError):
            raise HTTPException(
                409, "The parent directory does not exist: create it first (MKCOL)."
            ) from None
        except OSError as error:
            raise to_http_exception(error) from None
        try:
            yield fd, parts[-1]
        except OSError as error:
            raise to_http_exception(error) from None
        finally:
            os.close(fd)


def require_file_or_directory(fd: int, flags: int) -> int:
    """Return `fd` if it is a file or a directory; else close it and raise OSError."""
    kind = os.fstat(fd).st_mode
    if stat.S_ISREG(kind) or stat.S_ISDIR(kind) or (stat.S_ISLNK(kind) and flags & os.O_PATH):
        return fd
    os.close(fd)
    raise OSError(errno.ENXIO, os.strerror(errno.ENXIO))


def walk(top: int, parts: list[str], flags: int, mode: int) -> int:
    """Resolve the names from `top` on and open the last one, with one descriptor at a time.

    No system call follows a symlink: each name is opened with O_NOFOLLOW, then checked, and the
    target of a symlink is resolved here. ".." in a symlink starts again at `top` and opens the
    names that led to the directory above, so that a rename meanwhile cannot lead out of `top`.

    Raises OSError: EXDEV if the path leads out, EAGAIN if names changed meanwhile.
    """
    here = os.dup(top)
    above: list[str] = []  # the names that led from `top` to `here`
    rest = parts[::-1]
    links = 0
    try:
        while rest:
            part = rest.pop()
            if part in ("", "."):  # in the target of a symlink
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
                    former, here = here, _reopen_directory(here, name)
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
                    if links > MAX_SYMLINKS or (flags & os.O_NOFOLLOW and not rest):
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


def _reopen_directory(above: int, name: str) -> int:
    """Open a directory that existed before. Raises OSError, EAGAIN if it was removed."""
    try:
        return os.open(
            name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=above
        )
    except (FileNotFoundError, NotADirectoryError):
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN)) from None
