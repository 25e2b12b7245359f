"""The interface of aiofiles on noria's files: `import noria.aiofiles as aiofiles`.

Imports `files`, `os` and `path` only."""

from noria.aiofiles import base, os, ospath, tempfile, threadpool
from noria.aiofiles.threadpool import (
    open,
    stderr,
    stderr_bytes,
    stdin,
    stdin_bytes,
    stdout,
    stdout_bytes,
)

__all__ = [
    "base",
    "open",
    "os",
    "ospath",
    "stderr",
    "stderr_bytes",
    "stdin",
    "stdin_bytes",
    "stdout",
    "stdout_bytes",
    "tempfile",
    "threadpool",
]
