"""Making a model by name, the models that work on this machine, and the choice of ``auto``."""

from __future__ import annotations

import errno
import logging
import os
import sys
from typing import TYPE_CHECKING, Any

from noria._core.capabilities import CAPABILITIES, MODELS, NAMES
from noria.errors import ModelUnavailable

if TYPE_CHECKING:
    from noria._core.catalogue import ModelInfo
    from noria._core.contract import Model

__all__ = [
    "CAPABILITIES",
    "MODELS",
    "PREFERENCE",
    "ModelInfo",
    "availability",
    "choose",
    "info",
    "make",
]

log = logging.getLogger("noria")

# The models that auto tries, in this order: see "The default model" in docs/performance.md.
PREFERENCE = ("io_uring", "epoll", "poll")

# Errors after which a model is not tried again; a lack of memory or descriptors may pass.
_PERMANENT = (errno.EPERM, errno.EACCES, errno.ENOSYS, errno.EINVAL)
_refusals: dict[str, str] = {}
_warned: set[str] = set()


def __getattr__(name: str) -> Any:
    if name == "ModelInfo":
        from noria._core.catalogue import ModelInfo

        return ModelInfo
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def info(name: str) -> ModelInfo:
    """Return the description of a model. Raises UnknownModel, which lists the names."""
    # Imported late: a program that starts does not need the descriptions.
    from noria._core import catalogue

    return catalogue.info(name)


def make(name: str = "auto", *, interval: float = 0.001) -> Model:
    """Make a model by name; ``"auto"`` makes the fastest model that works on this machine.

    Args:
        name: a name, or several in order of preference: ``"io_uring,epoll"`` makes the first one
            that works.
        interval: seconds between the rounds of ``nonblocking``; other models ignore it.

    Raises UnknownModel, or ModelUnavailable with the reason.
    """
    if name == "auto" or "," in name:
        names = PREFERENCE if name == "auto" else tuple(part.strip() for part in name.split(","))
        return _first(names, interval)
    _check_name(name)
    if name == "blocking":
        from noria._core.models.blocking import Blocking

        return Blocking()
    if name == "threaded":
        from noria._core.models.threaded import Threaded

        return Threaded()
    if name == "nonblocking":
        from noria._core.models.nonblocking import Nonblocking

        return Nonblocking(interval)
    if name == "select":
        from noria._core.models.select import Select

        return Select()
    if name == "poll":
        from noria._core.models.poll import Poll

        return Poll()
    if name in ("epoll", "epoll-edge"):
        from noria._core.models.epoll import Epoll

        return Epoll(name == "epoll-edge")
    if name == "io_uring":
        return _make_io_uring()
    from noria._core.models.simulated import Simulated

    return Simulated()


def _check_name(name: str) -> None:
    if name not in NAMES:
        info(name)  # raises UnknownModel


def _first(names: tuple[str, ...], interval: float) -> Model:
    found: dict[str, str] = {}
    for name in names:
        _check_name(name)
        if name in _refusals:
            found[name] = _refusals[name]
            continue
        try:
            return make(name, interval=interval)
        except ModelUnavailable as error:
            found[name] = str(error.args[-1])
            if error.errno in _PERMANENT and not _turned_off():
                _refusals[name] = found[name]
            if name not in _warned:
                _warned.add(name)
                log.warning("%s; trying the next model", found[name])
    reasons = "; ".join(found.values())
    raise ModelUnavailable(errno.ENOSYS, f"none of the models {', '.join(names)} works: {reasons}")


def _make_io_uring() -> Model:
    from noria._core.models.io_uring import IoUring

    if _turned_off():
        raise ModelUnavailable(
            errno.EPERM, "io_uring is turned off: the environment variable NORIA_IO_URING is 0"
        )
    try:
        model = IoUring()
        if "io_uring" not in _proven:
            # A container may allow io_uring_setup and refuse the other calls: test one request.
            try:
                model.round_trip()
            except BaseException:
                model.close()
                raise
            _proven.add("io_uring")
        return model
    except (OSError, MemoryError) as error:
        number = error.errno if isinstance(error, OSError) and error.errno else errno.ENOMEM
        raise ModelUnavailable(number, f"io_uring is refused here: {_reason(number)}") from error


def _turned_off() -> bool:
    return os.environ.get("NORIA_IO_URING") == "0"


_proven: set[str] = set()


def _reason(number: int) -> str:
    """Why the kernel refused io_uring, as far as the process can find out."""
    text = os.strerror(number)
    if number == errno.EPERM:
        try:
            with open("/proc/sys/kernel/io_uring_disabled") as file:
                setting = int(file.read())
        except (OSError, ValueError):
            setting = 0
        if setting == 2 or (setting == 1 and os.geteuid() != 0):
            return f"the sysctl kernel.io_uring_disabled is {setting}"
    if number in (errno.EPERM, errno.EACCES, errno.ENOSYS) and _seccomp():
        return f"a seccomp filter forbids it ({text}), as container runtimes do by default"
    if number == errno.ENOSYS:
        return f"the kernel {os.uname().release} has none (it needs Linux 6.1)"
    if number == errno.EINVAL:
        return f"the kernel {os.uname().release} is too old (it needs Linux 6.1)"
    if number == errno.ENOMEM:
        try:
            import resource
        except (ImportError, OSError, MemoryError):  # no memory for the module either
            return f"no memory for the rings ({text})"
        limit = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
        return f"no memory for the rings ({text}; the limit of locked memory is {limit} bytes)"
    if number in (errno.EMFILE, errno.ENFILE):
        return f"no descriptor is free for the ring ({text})"
    return text


def _seccomp() -> bool:
    try:
        with open("/proc/self/status") as file:
            status = file.read()
    except OSError:
        return False
    return "\nSeccomp:\t2" in status


def availability(name: str) -> tuple[bool, str]:
    """(True, "") if the model works on this machine, else (False, why not)."""
    if not sys.platform.startswith("linux"):
        return False, "noria runs on Linux only"
    try:
        make(name).close()
    except ModelUnavailable as error:
        return False, str(error.args[-1])
    return True, ""


def choose() -> tuple[str, str]:
    """The model that ``auto`` chooses on this machine, and the reason."""
    refused = ""
    for name in PREFERENCE:
        works, why_not = availability(name)
        if works:
            break
        refused = refused or why_not
        log.debug("auto skips %s: %s", name, why_not)
    else:
        raise ModelUnavailable(errno.ENOSYS, "none of auto's models works here")
    if name == PREFERENCE[0]:
        return name, "the fastest by noria's benchmarks"
    return name, f"{PREFERENCE[0]} is faster but {refused}"
