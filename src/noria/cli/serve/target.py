"""``MODULE:PROTOCOL``: the user's own protocol, found, imported and looked at."""

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

CALLED = (("data_received",), ("get_buffer", "buffer_updated"))  # either makes a stream protocol


def load(target: str) -> Factory:
    """A factory of protocols. Wrong use is a UsageError; what the user's module raises is shown."""
    if target == "echo":
        from noria.servers.echo import Echo

        return Echo
    name, colon, attribute = target.partition(":")
    if not (name and colon and attribute):
        raise click.UsageError(
            f"{target!r} is neither 'files', 'echo' nor MODULE:PROTOCOL (such as myserver:Chat)."
        )
    return _checked(target, _attribute(_module(name), name, attribute))


def _module(name: str) -> ModuleType:
    if name.endswith(".py"):
        raise click.UsageError(f"name the module, not its file: {name[:-3].replace('/', '.')}")
    here = os.getcwd()
    if here not in sys.path and "" not in sys.path:  # a console script does not look here itself
        sys.path.insert(0, here)
    if not all(part.isidentifier() for part in name.split(".")):
        raise click.UsageError(
            f"{name!r} is not the name of a module (dots between its parts, no slashes)."
        )
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            _theirs(error, name)
        raise click.UsageError(
            f"there is no module {error.name!r} here ({here}) or among the installed ones."
        ) from None
    except Exception as error:
        _theirs(error, name)
        raise


def _attribute(module: ModuleType, name: str, path: str) -> Any:
    found: Any = module
    for part in path.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            near = difflib.get_close_matches(part, dir(found), 1)
            hint = f" Did you mean {near[0]}?" if near else _offers(module)
            raise click.UsageError(f"module {name!r} has no {path!r}.{hint}") from None
    return found


def _offers(module: ModuleType) -> str:
    names = [
        name
        for name, value in vars(module).items()
        if inspect.isclass(value) and value.__module__ == module.__name__ and _is_protocol(value)
    ]
    return f" Its protocols: {', '.join(names)}." if names else " It has no protocol class."


def _is_protocol(thing: Any) -> bool:
    return hasattr(thing, "connection_made") and any(
        all(callable(getattr(thing, name, None)) for name in names) for names in CALLED
    )


def _checked(target: str, found: Any) -> Factory:
    """*found* as a factory: a protocol class, or a callable that gives a protocol."""
    if not callable(found):
        raise click.UsageError(
            f"{target} is not a protocol class but of type {type(found).__name__}."
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
        _try(target, found)
    return found  # type: ignore[no-any-return]


def _try(target: str, factory: Factory) -> None:
    """Call a function once before any connection does, to see that it gives a protocol."""
    try:
        product = factory()
    except Exception as error:
        _theirs(error, target)
        raise
    if inspect.iscoroutine(product):
        product.close()
        raise click.UsageError(f"{target} is a coroutine function: it must return a protocol.")
    if not _is_protocol(product):
        raise click.UsageError(
            f"{target} returned no stream protocol but something of type {type(product).__name__}."
        )


def _theirs(error: Exception, what: str) -> None:
    """An error of the user's own code: their traceback without our frames, then status 1."""
    trace: TracebackType | None = error.__traceback__
    while trace is not None and _ours(trace.tb_frame.f_code.co_filename):
        trace = trace.tb_next
    traceback.print_exception(type(error), error, trace)
    click.echo(f"noria: {what} could not be used: {type(error).__name__}: {error}", err=True)
    raise click.exceptions.Exit(1) from None


def _ours(file: str) -> bool:
    return file == __file__ or file.startswith("<frozen importlib") or "/importlib/" in file
