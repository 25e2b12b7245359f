"""``MODULE:PROTOCOL``: imports the user's protocol and checks that it can serve connections."""

import difflib
import importlib
import inspect
import os
import sys
import traceback
from collections.abc import Callable
from types import ModuleType, TracebackType
from typing import Any

import click

Factory = Callable[[], Any]

# A stream protocol has the methods of asyncio.Protocol or those of asyncio.BufferedProtocol.
RECEIVE_METHODS = (("data_received",), ("get_buffer", "buffer_updated"))


def load(target: str) -> Factory:
    """Return the protocol factory that *target* names.

    Raises UsageError if there is none. An exception of the user's module is shown with its
    traceback, and Exit is raised.
    """
    if target == "echo":
        from noria.servers.echo import Echo

        return Echo
    name, colon, attribute = target.partition(":")
    if not (name and colon and attribute):
        raise click.UsageError(
            f"{target!r} is neither 'files', 'echo' nor MODULE:PROTOCOL (such as myserver:Chat)."
        )
    return _require_factory(target, _find_attribute(_import_module(name), name, attribute))


def _import_module(name: str) -> ModuleType:
    if name.endswith(".py"):
        raise click.UsageError(f"name the module, not its file: {name[:-3].replace('/', '.')}")
    directory = os.getcwd()
    # A console script does not have the current directory in sys.path.
    if directory not in sys.path and "" not in sys.path:
        sys.path.insert(0, directory)
    if not all(part.isidentifier() for part in name.split(".")):
        raise click.UsageError(
            f"{name!r} is not a module name (its parts are separated by dots, not slashes)."
        )
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            _exit_with_traceback(error, name)
        raise click.UsageError(
            f"there is no module {error.name!r} in {directory} or among the installed packages."
        ) from None
    except Exception as error:
        _exit_with_traceback(error, name)
        raise


def _find_attribute(module: ModuleType, name: str, path: str) -> Any:
    found: Any = module
    for part in path.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            close = difflib.get_close_matches(part, dir(found), 1)
            hint = f" Did you mean {close[0]}?" if close else _list_protocols(module)
            raise click.UsageError(f"module {name!r} has no {path!r}.{hint}") from None
    return found


def _list_protocols(module: ModuleType) -> str:
    names = [
        name
        for name, value in vars(module).items()
        if inspect.isclass(value) and value.__module__ == module.__name__ and _is_protocol(value)
    ]
    return f" Its protocols: {', '.join(names)}." if names else " It has no protocol class."


def _is_protocol(thing: Any) -> bool:
    return hasattr(thing, "connection_made") and any(
        all(callable(getattr(thing, name, None)) for name in names) for names in RECEIVE_METHODS
    )


def _require_factory(target: str, found: Any) -> Factory:
    """Return *found* if it is a protocol class or a callable that returns a protocol."""
    if not callable(found):
        raise click.UsageError(
            f"{target} is not a protocol class: it is of type {type(found).__name__}."
        )
    if inspect.isclass(found) and not _is_protocol(found):
        raise click.UsageError(
            f"{target} is a class, but not a stream protocol: it needs connection_made and "
            "data_received (derive it from asyncio.Protocol or asyncio.BufferedProtocol)."
        )
    try:
        inspect.signature(found).bind()
    except TypeError as error:
        raise click.UsageError(
            f"{target} is called without arguments for every connection: {error}."
        ) from None
    except ValueError:  # a built-in without a signature
        pass
    if not inspect.isclass(found):
        _try_factory(target, found)
    return found  # type: ignore[no-any-return]


def _try_factory(target: str, factory: Factory) -> None:
    """Call the factory once, before a connection does, and check what it returns."""
    try:
        product = factory()
    except Exception as error:
        _exit_with_traceback(error, target)
        raise
    if inspect.iscoroutine(product):
        product.close()
        raise click.UsageError(f"{target} is a coroutine function: it must return a protocol.")
    if not _is_protocol(product):
        raise click.UsageError(
            f"{target} did not return a stream protocol but an object of type "
            f"{type(product).__name__}."
        )


def _exit_with_traceback(error: Exception, target: str) -> None:
    """Print an error of the user's code with a traceback from their frames on; raise Exit(1)."""
    trace: TracebackType | None = error.__traceback__
    while trace is not None and _is_import_frame(trace.tb_frame.f_code.co_filename):
        trace = trace.tb_next
    traceback.print_exception(type(error), error, trace)
    click.echo(f"noria: cannot use {target}: {type(error).__name__}: {error}", err=True)
    raise click.exceptions.Exit(1) from None


def _is_import_frame(file: str) -> bool:
    """Whether the frame is of this module or of importlib."""
    return file == __file__ or file.startswith("<frozen importlib") or "/importlib/" in file
