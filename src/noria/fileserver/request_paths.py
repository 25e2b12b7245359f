"""Which names a request may use: checked before the kernel is asked."""

from __future__ import annotations

import re
from functools import lru_cache
from urllib.parse import quote, unquote

from noria.http.messages import HTTPException

HIDDEN = ".noria-"  # begins the names that are the server's own: parts of uploads
NAME_MAX = 255  # bytes: pathname(7), <linux/limits.h>
PATH_MAX = 4096
DEPTH_MAX = 255  # names of a path that a request may make

# Slashes, C0, DEL, C1, and U+FFFD: bytes that were no UTF-8 before they were decoded.
_WRONG = re.compile(r"[/\\\x00-\x1f\x7f-\x9f\ufffd]")


def names(path: str) -> list[str]:
    """The names that `path`, decoded and beginning with "/", is made of. Raises HTTPException.

    Names that would be a way around once decoded again ("%2e%2e", "%2f") are refused as well:
    something between client and disk may do just that.
    """
    if not path.startswith("/"):
        raise HTTPException(400, 'A path begins with "/".')
    parts = path[1:].split("/")
    if parts[-1] == "":
        parts.pop()
    for part in parts:
        check(part)
    if len(encoded(path)) >= PATH_MAX:
        raise HTTPException(400, f"The path is too long: {PATH_MAX - 1} bytes are the most.")
    return parts


def require_depth(path: str, below: int = 0) -> None:
    """Raises HTTPException 403 if nothing may be made at `path`, with `below` levels beneath it."""
    if len(names(path)) + below > DEPTH_MAX:
        raise HTTPException(
            403,
            f"That is too deep: at most {DEPTH_MAX} names, one in the other, can be made here.",
        )


@lru_cache(4096)  # what it raises is not kept
def check(name: str) -> None:
    """Raise HTTPException unless `name` can name one file or directory and is not reserved."""
    if not name:
        raise HTTPException(400, 'The path has an empty name in it ("//").')
    if len(encoded(name)) > NAME_MAX:
        raise HTTPException(400, f"A name in the path is too long: {NAME_MAX} bytes are the most.")
    seen = name
    while True:
        if seen in (".", ".."):
            raise HTTPException(400, 'The path has "." or ".." in it; ask for the plain path.')
        if _WRONG.search(seen):
            raise HTTPException(
                400, "The path has a slash, backslash or control character in a name."
            )
        again = unquote(seen)
        if again == seen:
            break
        seen = again
    if name.startswith(HIDDEN):
        raise HTTPException(403, f'Names that begin with "{HIDDEN}" are the server\'s own.')


def encoded(name: str) -> bytes:
    """As UTF-8. Raises HTTPException if it was never that (it has lone surrogates)."""
    try:
        return name.encode()
    except UnicodeEncodeError:
        raise HTTPException(400, "The path is not UTF-8.") from None


def usable(name: str) -> bool:
    """Whether a name in a directory can be asked for; what cannot be is not listed."""
    try:
        check(name)
    except HTTPException:
        return False
    return True


def url(path: str) -> str:
    """The path as it stands in a URL."""
    return quote(path, safe="/!$&'()*+,;=:@~")


def directory_of(path: str) -> str:
    """The directory that the file or directory is in: "/a/" of "/a/b" and of "/a/b/"."""
    return path.rstrip("/").rpartition("/")[0] + "/"
