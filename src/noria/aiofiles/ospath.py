"""`aiofiles.ospath`: functions of noria.path, and `wrap`."""

from noria.aiofiles.base import wrap
from noria.path import (
    abspath,
    exists,
    getatime,
    getctime,
    getmtime,
    getsize,
    isdir,
    isfile,
    islink,
    ismount,
    samefile,
    sameopenfile,
)

__all__ = [
    "abspath",
    "exists",
    "getatime",
    "getctime",
    "getmtime",
    "getsize",
    "isdir",
    "isfile",
    "islink",
    "ismount",
    "samefile",
    "sameopenfile",
    "wrap",
]
