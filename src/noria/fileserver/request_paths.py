"""The rules for paths of requests. They are checked before any system call."""

from __future__ import annotations

import re
from functools import lru_cache
from urllib.parse import quote, unquote

from noria.http.messages import HTTPException

RESERVED_NAME_PREFIX = ".noria-"  # of the server's own files: uploads under way
NAME_MAX = 255  # bytes: pathname(7), <linux/limits.h>
PATH_MAX = 4096  # bytes, with the terminating null byte
MAX_DEPTH = 255  # names in a path that a request may create

# Slashes, C0, DEL, C1, and U+FFFD, which stands for bytes that were not UTF-8.
_FORBIDDEN = re.compile(r"[/\\\x00-\x1f\x7f-\x9f\ufffd]")


def split_path(path: str) -> list[str]:
    """The names in the decoded path of a URL, which begins with "/". Raises HTTPException.

    Names that become special when they are decoded once more ("%2e%2e", "%2f") are refused too,
    because a proxy may decode them.
    """
    if not path.startswith("/"):
        raise HTTPException(400, 'A path must begin with "/".')
    parts = path[1:].split("/")
    if parts[-1] == "":
        parts.pop()
    for part in parts:
        check_name(part)
    if len(encode_path(path)) >= PATH_MAX:
        raise HTTPException(400, f"The path is too long: the maximum is {PATH_MAX - 1} bytes.")
    return parts


def require_depth(path: str, below: int = 0) -> None:
    """Raise HTTPException 403 if `path`, with `below` levels below it, is too deep."""
    if len(split_path(path)) + below > MAX_DEPTH:
        raise HTTPException(
            403,
            f"The path is too deep: the maximum is {MAX_DEPTH} nested names.",
        )


@lru_cache(4096)
def check_name(name: str) -> None:
    """Raise HTTPException unless `name` can name one file or directory and is not reserved."""
    if not name:
        raise HTTPException(400, 'The path has an empty name ("//").')
    if len(encode_path(name)) > NAME_MAX:
        raise HTTPException(
            400, f"A name in the path is too long: the maximum is {NAME_MAX} bytes."
        )
    decoded = name
    while True:
        if decoded in (".", ".."):
            raise HTTPException(400, 'The path must not have "." or "..".')
        if _FORBIDDEN.search(decoded):
            raise HTTPException(
                400, "A name in the path has a slash, a backslash or a control character."
            )
        again = unquote(decoded)
        if again == decoded:
            break
        decoded = again
    if name.startswith(RESERVED_NAME_PREFIX):
        raise HTTPException(403, f'Names that begin with "{RESERVED_NAME_PREFIX}" are reserved.')


def encode_path(name: str) -> bytes:
    """Encode as UTF-8. Raises HTTPException if it was not UTF-8 (it has lone surrogates)."""
    try:
        return name.encode()
    except UnicodeEncodeError:
        raise HTTPException(400, "The path is not UTF-8.") from None


def is_valid_name(name: str) -> bool:
    """Whether a request may use this name. Other names are not listed."""
    try:
        check_name(name)
    except HTTPException:
        return False
    return True


def to_url(path: str) -> str:
    """Encode a path for a URL."""
    return quote(path, safe="/!$&'()*+,;=:@~")


def parent_directory(path: str) -> str:
    """The directory that a path is in: "/a/" for "/a/b" and for "/a/b/"."""
    return path.rstrip("/").rpartition("/")[0] + "/"


def require_file_path(path: str) -> None:
    """Raise HTTPException unless a file can be stored at this path."""
    require_depth(path)
    if path.endswith("/"):
        raise HTTPException(
            409, 'A path that ends in "/" names a directory: create directories by MKCOL.'
        )
    if is_reserved(path):
        raise HTTPException(403, 'Paths below "/-/" are reserved.')


def require_target_path(path: str) -> None:
    """Raise HTTPException unless a file or directory can be moved to this path."""
    split_path(path)
    if is_reserved(path):
        raise HTTPException(403, 'Paths below "/-/" are reserved.')


def is_reserved(path: str) -> bool:
    """Whether the path belongs to the server itself: "/-" and all below it."""
    return path == "/-" or path.startswith("/-/")
