"""Has asyncio create noria's loop wherever a program would get asyncio's default one.

No policy is set, which would be deprecated from Python 3.14 on: the default policy's method and the
names of asyncio's loop class are replaced. A program that sets a policy or passes the loop factory
of another loop keeps it.
"""

from __future__ import annotations

import asyncio
import selectors
from asyncio import events, unix_events
from collections.abc import Callable
from typing import Any

from noria.aio.loop import EventLoop
from noria.aio.run import default_policy
from noria.sight.replacements import Replacements

CLASS_NAMES = ("SelectorEventLoop", "EventLoop")  # EventLoop: from Python 3.13 on


class _AnyNoriaLoop(type):
    """Every loop of noria counts as an instance of the class that stands for asyncio's."""

    def __instancecheck__(cls, instance: Any) -> bool:
        if cls is SelectorEventLoop:
            return isinstance(instance, EventLoop)
        return super().__instancecheck__(instance)


class SelectorEventLoop(EventLoop, metaclass=_AnyNoriaLoop):
    """noria's loop in place of asyncio.SelectorEventLoop: *selector* is not used."""

    model_to_use = "auto"

    def __new__(cls, selector: selectors.BaseSelector | None = None) -> Any:
        """Return an EventLoop: methods of a subclass are found a little more slowly."""
        return EventLoop(cls.model_to_use) if cls is SelectorEventLoop else super().__new__(cls)

    def __init__(self, selector: selectors.BaseSelector | None = None) -> None:
        super().__init__(self.model_to_use)


def replace_default_loop(model: str) -> Callable[[], None]:
    """Have asyncio.run, asyncio.Runner, policies and loop classes create noria's loop.

    Returns a function that undoes it.
    """
    replacements = Replacements()

    def new_event_loop(*args: Any) -> EventLoop:
        return EventLoop(model)

    SelectorEventLoop.model_to_use = model
    former: Any = asyncio.SelectorEventLoop
    policy = default_policy()
    if policy is object:  # a Python without policies
        replacements.replace(events, "new_event_loop", new_event_loop)
        replacements.replace(asyncio, "new_event_loop", new_event_loop)
    else:
        replacements.replace(policy, "new_event_loop", new_event_loop)
    for module in (asyncio, unix_events):
        for name in CLASS_NAMES:
            if getattr(module, name, None) is former:
                replacements.replace(module, name, SelectorEventLoop)
    return replacements.undo
