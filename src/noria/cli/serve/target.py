"""``MODULE:PROTOCOL``: imports the user's protocol and checks that it can serve connections."""

import inspect
from collections.abc import Callable
from types import ModuleType
from typing import Any

import click

from noria.cli.import_target import exit_with_traceback, find_attribute, import_module

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
    found = find_attribute(import_module(name), attribute, _list_protocols)
    return _require_factory(target, found)


def _list_protocols(module: ModuleType) -> str:
    names = [
        name
        for name, value in vars(module).items()
        if inspect.isclass(value) and value.__module__ == module.__name__ and _is_protocol(value)
    ]
    return f"Its protocols: {', '.join(names)}." if names else "It has no protocol class."


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
        exit_with_traceback(error, target)
    if inspect.iscoroutine(product):
        product.close()
        raise click.UsageError(f"{target} is a coroutine function: it must return a protocol.")
    if not _is_protocol(product):
        raise click.UsageError(
            f"{target} did not return a stream protocol but an object of type "
            f"{type(product).__name__}."
        )
