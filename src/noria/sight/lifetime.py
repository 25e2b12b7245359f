"""The start and end of this process's agent: it runs while it has users.

The child of a fork starts an agent of its own, with the same settings, when it first runs a loop.
"""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from noria._core.loop import set_loop_hook
from noria.errors import error_message

if TYPE_CHECKING:
    from noria.sight.agent import Agent
    from noria.sight.settings import Settings

_lock = threading.RLock()
_agent: Agent | None = None
_users = 0
_settings: Settings | None = None  # of the agent to start when a loop runs
# Called with each agent that starts, in this process and in children of a fork.
_on_start: list[Callable[[Agent], object]] = []


def active() -> Agent | None:
    """Return the agent of this process, or None."""
    return _agent


def acquire(settings: Settings) -> Agent:
    """Start an agent, or add a user to the running one. Raises OSError."""
    global _agent, _users
    with _lock:
        if _agent is None:
            _start(settings)
        _users += 1
        assert _agent is not None
        return _agent


def release() -> None:
    """Remove a user; with the last one the agent stops."""
    global _agent, _users, _settings
    with _lock:
        _users -= 1
        if _users > 0:
            return
        _users = 0
        if _settings is not None:  # a child of a fork has run no loop yet
            _settings = None
            set_loop_hook(None)
        agent, _agent = _agent, None
        if agent is not None:
            # With the lock: an agent that starts meanwhile must find the loops without recorders.
            _stop(agent)


def _stop(agent: Agent) -> None:
    from noria.sight import program_hooks

    program_hooks.remove()
    agent.stop()
    if agent.flight_recorder is not None:
        agent.flight_recorder.close()


def arm(settings: Settings) -> None:
    """Start an agent, for good, when this process first runs a loop."""
    global _users, _settings
    with _lock:
        _users += 1
        if _agent is None:
            _settings = settings
            set_loop_hook(_start_in_loop)


def on_start(function: Callable[[Agent], object]) -> None:
    """Have a function called with each agent that starts; at once with one that runs."""
    with _lock:
        _on_start.append(function)
        if _agent is not None:
            function(_agent)


def _start(settings: Settings) -> None:
    global _agent, _settings
    from noria.sight import program_hooks
    from noria.sight.agent import Agent
    from noria.sight.answers import answer
    from noria.sight.flight_recorder import FlightRecorder
    from noria.sight.watchdog import Watchdog

    agent = Agent(settings)
    agent.answer = functools.partial(answer, agent)
    agent.watchdog = Watchdog(agent)
    agent.start()
    program_hooks.install(agent)
    if settings.socket:
        agent.flight_recorder = FlightRecorder(agent)
        agent.add_ticker(agent.flight_recorder.tick, slow=True)
    _agent, _settings = agent, None
    for function in _on_start:
        function(agent)


def _start_in_loop(loop: Any) -> None:
    """Called by the first loop that runs: an error must not keep it from running."""
    with _lock:
        settings = _settings
        if settings is None or _agent is not None:
            return
        set_loop_hook(None)
        try:
            _start(settings)
        except OSError as error:
            from noria.sight.messages import warn

            warn(f"this process is not watched: {error_message(error)}")
            return
    if _agent is not None:
        _agent.loop_runs(loop)


def _after_fork_in_child() -> None:
    global _lock, _agent, _settings
    _lock = threading.RLock()  # a thread of the parent may have had it
    agent, _agent = _agent, None
    if agent is not None:
        from noria.sight import program_hooks

        program_hooks.remove()
        agent.abandon()
        if agent.flight_recorder is not None:
            agent.flight_recorder.abandon()
        _settings = agent.settings
    if _settings is not None and _users:
        set_loop_hook(_start_in_loop)


os.register_at_fork(after_in_child=_after_fork_in_child)
