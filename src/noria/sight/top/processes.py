"""The processes that can be observed, and why another cannot."""

from __future__ import annotations

import contextlib
import os
import pwd
import time
from dataclasses import dataclass
from pathlib import Path

from noria.errors import NoriaError
from noria.sight.process_stat import stat_fields
from noria.sight.socket_directory import SUFFIX, socket_directory
from noria.sight.top import units

HOW = "start it with 'noria run SCRIPT', or call noria.watch() in it"


class CannotObserve(NoriaError):
    """A process cannot be observed; `hint` is what to do."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


@dataclass(frozen=True, slots=True)
class Process:
    """A process that listens for observers."""

    pid: int
    command: str
    age: float  # seconds since it was started
    memory: int  # bytes in RAM
    socket: str


def processes() -> list[Process]:
    """Return this user's processes that can be observed, the newest first."""
    found = {}
    for directory in {socket_directory(), Path(f"/tmp/noria-{os.getuid()}")}:
        with contextlib.suppress(OSError):
            for path in directory.glob("*" + SUFFIX):
                if path.stem.isdecimal() and (process := _process(int(path.stem), path)):
                    found[process.pid] = process
    return sorted(found.values(), key=lambda process: (process.age, process.pid))


def socket_of(target: str) -> str:
    """Return the path of the socket of a process id, or *target* itself if it is a path.

    Raises CannotObserve if there is no such process, if it is not watched, or if it belongs to
    another user.
    """
    if not target.isdecimal():
        if not os.path.exists(target):
            raise CannotObserve(
                f"{target}: no such socket",
                "name a process id or a socket; 'noria top --list' lists both",
            )
        return target
    pid = int(target)
    try:
        uid = os.stat(f"/proc/{pid}").st_uid
    except OSError:
        raise CannotObserve(
            f"there is no process {pid}", "'noria top --list' lists what can be observed"
        ) from None
    paths = _possible_sockets(pid, uid)
    if path := next((path for path in paths if path.exists()), None):
        return str(path)
    if uid != os.getuid() and os.getuid() != 0:
        raise CannotObserve(
            f"process {pid} belongs to {_user(uid)}", "observe it as that user, or as root"
        )
    raise CannotObserve(f"process {pid} is not watched by noria", HOW)


def _possible_sockets(pid: int, uid: int) -> list[Path]:
    """Return where the socket may be: the process may have another XDG_RUNTIME_DIR."""
    name = f"{pid}{SUFFIX}"
    found = [socket_directory() / name]
    with contextlib.suppress(OSError):
        for variable in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
            key, _, value = variable.partition(b"=")
            if key == b"XDG_RUNTIME_DIR" and value.startswith(b"/"):
                found.append(Path(os.fsdecode(value), "noria", name))
    return [*found, Path(f"/run/user/{uid}/noria", name), Path(f"/tmp/noria-{uid}", name)]


def _process(pid: int, socket: Path) -> Process | None:
    """Return what /proc says about a process; None if it has ended."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0")
        fields = stat_fields(pid)
    except OSError:
        return None
    if fields[0] in (b"Z", b"X"):
        return None
    # proc(5): field 22 is the start in clock ticks since boot, 24 the resident pages.
    started = int(fields[19]) / os.sysconf("SC_CLK_TCK")
    return Process(
        pid,
        units.clean(command.replace(b"\0", b" ").decode(errors="replace")),
        max(time.clock_gettime(time.CLOCK_BOOTTIME) - started, 0.0),
        int(fields[21]) * os.sysconf("SC_PAGE_SIZE"),
        str(socket),
    )


def _user(uid: int) -> str:
    with contextlib.suppress(KeyError):
        return f"user {pwd.getpwuid(uid).pw_name}"
    return f"user {uid}"
