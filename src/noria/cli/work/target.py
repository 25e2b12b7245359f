"""``MODULE:BUS``: imports the user's bus and checks that it can be run."""

from __future__ import annotations

from types import ModuleType

import click

from noria.bus.bus import Bus
from noria.cli.import_target import find_attribute, import_module


def load(target: str, workers: int) -> Bus:
    """Return the bus that *target* names; a module with one bus needs no name.

    Raises UsageError if there is none, if it has no handlers, or if several workers cannot share
    its broker; Exit for an exception of the module.
    """
    name, colon, attribute = target.partition(":")
    if not name or (colon and not attribute):
        raise click.UsageError(f"{target!r} is not MODULE:BUS (such as app:bus).")
    module = import_module(name)
    bus = find_attribute(module, attribute, _list_buses) if attribute else _only_bus(module)
    if not isinstance(bus, Bus):
        kind = "class" if isinstance(bus, type) else type(bus).__name__
        raise click.UsageError(f"{target} is not a noria.Bus but a {kind}. {_list_buses(module)}")
    if not bus.registrations:
        raise click.UsageError(
            f"{target} has no handlers: write @{attribute or 'bus'}.on(TYPE) above a function, in "
            f"{name} or in a module that it imports."
        )
    if workers > 1 and not bus.broker.durable:
        raise click.UsageError(
            f"{bus.url.shown} is a broker inside one process: {workers} workers would not share "
            "its events. Use a nats:// or redis:// URL, or one worker."
        )
    return bus


def _only_bus(module: ModuleType) -> Bus:
    found = _buses(module)
    if len(found) != 1:
        raise click.UsageError(
            f"name the bus, as {module.__name__}:{next(iter(found), 'bus')}. {_list_buses(module)}"
        )
    return next(iter(found.values()))


def _buses(module: ModuleType) -> dict[str, Bus]:
    return {name: value for name, value in vars(module).items() if isinstance(value, Bus)}


def _list_buses(module: ModuleType) -> str:
    names = ", ".join(_buses(module))
    return f"Its buses: {names}." if names else f"{module.__name__} has no noria.Bus."
