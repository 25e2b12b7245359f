"""What a handler's parameters get: the event, or its data checked against a type."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import types
import typing
from collections.abc import Callable
from typing import Any

from noria.bus.event import Event
from noria.errors import BusError, InvalidData

# Returns the positional arguments for an event. Raises InvalidData.
Binder = Callable[[Event], tuple[Any, ...]]


class MissingMsgspec(BusError, ImportError):
    """A handler declares a type for its data, and msgspec, which checks it, is not installed."""


def binder(handler: Callable[..., object]) -> Binder | None:
    """Return what makes a handler's arguments; None if its only argument is the event.

    A parameter that is annotated with a dataclass, a TypedDict or a msgspec.Struct gets the data,
    checked and converted. The other one gets the event. Raises TypeError if the handler takes
    something else, and MissingMsgspec.
    """
    parameters = _required_parameters(handler)
    if not 1 <= len(parameters) <= 2:
        raise TypeError(
            f"{_name(handler)} takes {len(parameters)} arguments; a handler takes the event, or "
            "one parameter annotated with a dataclass or a TypedDict for its data, or both"
        )
    hints = _hints(handler)
    declared = [(name, hints.get(name)) for name in parameters]
    getters: list[Callable[[Event], Any]] = []
    events = 0
    for name, hint in declared:
        if _is_event(hint):
            events += 1
            getters.append(_event)
        else:
            getters.append(_converter(handler, name, hint))
    if events == 2 or (len(getters) == 2 and not events):
        raise TypeError(
            f"{_name(handler)}: of two parameters, one is the event and one is annotated with a "
            "dataclass or a TypedDict for its data"
        )
    if events == len(getters):
        return None
    if len(getters) == 1:
        only = getters[0]
        return lambda event: (only(event),)
    first, second = getters
    return lambda event: (first(event), second(event))


def _required_parameters(handler: Callable[..., object]) -> list[str]:
    try:
        signature = inspect.signature(handler)
    except (TypeError, ValueError):
        return ["event"]
    found = []
    variadic = False
    for parameter in signature.parameters.values():
        if parameter.kind is parameter.VAR_POSITIONAL:
            variadic = True
        elif parameter.kind is parameter.KEYWORD_ONLY and parameter.default is parameter.empty:
            raise TypeError(f"{_name(handler)}: the parameter {parameter.name!r} needs a default")
        elif parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD) and (
            parameter.default is parameter.empty
        ):
            found.append(parameter.name)
    return found or (["event"] if variadic else [])


def without_partial(handler: Callable[..., object]) -> Any:
    """Return the callable inside functools.partial objects."""
    target: Any = handler
    while isinstance(target, functools.partial):
        target = target.func
    return target


def _hints(handler: Callable[..., object]) -> dict[str, Any]:
    target = without_partial(handler)
    if not isinstance(target, types.FunctionType | types.MethodType):
        target = getattr(target, "__call__", target)  # noqa: B004
    try:
        return typing.get_type_hints(target, include_extras=True)
    except (NameError, TypeError, AttributeError) as error:
        annotations = getattr(target, "__annotations__", {})
        if not any(isinstance(value, str) for value in annotations.values()):
            return dict(annotations)
        raise TypeError(
            f"{_name(handler)}: its annotations cannot be resolved ({error}); import the types at "
            "the top of the module"
        ) from None


def _is_event(hint: Any) -> bool:
    return hint is None or hint is Any or (isinstance(hint, type) and issubclass(hint, Event))


def _event(event: Event) -> Event:
    return event


def _converter(handler: Callable[..., object], name: str, hint: Any) -> Callable[[Event], Any]:
    described = dataclasses.is_dataclass(hint) or typing.is_typeddict(hint)
    if not described and not hasattr(hint, "__struct_fields__"):
        raise TypeError(
            f"{_name(handler)}: the parameter {name!r} is annotated with {hint!r}; use "
            "noria.Event, a dataclass, a TypedDict or a msgspec.Struct"
        )
    try:
        import msgspec
    except ImportError:
        raise MissingMsgspec(
            f"{_name(handler)}: msgspec checks the data for {name!r}: pip install 'noria[bus]'"
        ) from None
    convert = msgspec.convert

    def checked(event: Event) -> Any:
        try:
            return convert(event.data, hint)
        except msgspec.ValidationError as error:
            raise InvalidData(f"the data of {event.type}: {error}") from None

    return checked


def _name(handler: Callable[..., object]) -> str:
    return getattr(handler, "__qualname__", None) or repr(handler)
