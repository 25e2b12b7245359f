"""`aiofiles.os`: functions of noria.os, and `wrap`."""

from noria.aiofiles import ospath as path
from noria.aiofiles.base import wrap
from noria.os import (
    access,
    getcwd,
    link,
    listdir,
    makedirs,
    mkdir,
    readlink,
    remove,
    removedirs,
    rename,
    renames,
    replace,
    rmdir,
    scandir,
    sendfile,
    stat,
    statvfs,
    symlink,
    unlink,
)

__all__ = [
    "access",
    "getcwd",
    "link",
    "listdir",
    "makedirs",
    "mkdir",
    "path",
    "readlink",
    "remove",
    "removedirs",
    "rename",
    "renames",
    "replace",
    "rmdir",
    "scandir",
    "sendfile",
    "stat",
    "statvfs",
    "symlink",
    "unlink",
    "wrap",
]
