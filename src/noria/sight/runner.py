"""`noria run` inside the process of the program, and in the Python processes that it starts.

`noria run` replaces itself by ``python PROGRAM``, with the folder `shim` on PYTHONPATH: the program
runs as it does without noria, except that `start` was called before.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import importlib
import os
import signal
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from noria.errors import error_message
from noria.sight.after_import import after_import
from noria.sight.messages import warn
from noria.sight.run_options import VARIABLE, RunOptions

if TYPE_CHECKING:
    from noria.sight.agent import Agent
    from noria.sight.run_session import RunSession

LAST = -1_000_000  # exit priority: after the finalizers of multiprocessing and of the program
ENDING_SIGNALS = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)


def shim_directory() -> str:
    """Return the directory whose sitecustomize starts `noria run`."""
    return os.path.join(os.path.dirname(os.path.abspath(__file__)), "shim")


def environment(options: RunOptions, former: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a program that runs with these options."""
    paths = [path for path in former.get("PYTHONPATH", "").split(os.pathsep) if path]
    shim = shim_directory()
    return {
        **former,
        "PYTHONPATH": os.pathsep.join([shim, *(path for path in paths if path != shim)]),
        VARIABLE: options.encode(),
    }


def start() -> None:
    """Called before the program begins, in each Python process that has the environment."""
    try:
        options = RunOptions.decode(os.environ[VARIABLE])
    except (KeyError, ValueError, TypeError):
        return
    if options.prefix != sys.prefix:
        return
    runner = Runner(options)
    after_import("asyncio", runner.asyncio_imported)
    after_import("uvicorn.loops.auto", prefer_asyncio)
    after_import("uvloop", runner.uvloop_imported)
    if options.needs_agent:
        after_import("noria._core.loop", runner.loop_imported)
        atexit.register(runner.finish)
        after_import("multiprocessing.util", runner.multiprocessing_imported)
        runner.finish_before_signals()
        if options.metrics is not None and options.is_program:
            # The program itself may run no loop, only its workers.
            importlib.import_module("noria._core.loop")


class Runner:
    """The work of `noria run` in one process, from its start to its end."""

    def __init__(self, options: RunOptions) -> None:
        self.options = options
        self.session: RunSession | None = None
        self._armed = False

    def asyncio_imported(self, module: Any) -> None:
        """Replace asyncio's loop by noria's."""
        from noria.sight.loop_replacement import replace_default_loop

        replace_default_loop(self.options.model)

    def loop_imported(self, module: Any) -> None:
        """Watch the loops that will run."""
        from noria.sight import lifetime

        self._armed = True
        lifetime.on_start(self.agent_started)
        try:
            if self.options.metrics is not None and self.options.is_program:
                lifetime.acquire(self.options.settings())
            else:
                lifetime.arm(self.options.settings())
        except OSError as error:
            warn(f"this process is not watched: {error_message(error)}")

    def agent_started(self, agent: Agent) -> None:
        """Record, serve metrics and so on, in this process or the child of a fork."""
        from noria.sight.run_session import RunSession

        self.session = RunSession(agent, self.options)

    def uvloop_imported(self, module: Any) -> None:
        """Write a message, once, when a loop of uvloop first runs."""
        inherited = module.Loop.run_forever

        @functools.wraps(inherited)
        def run_forever(loop: Any) -> Any:
            if vars(module.Loop).get("run_forever") is run_forever:
                del module.Loop.run_forever  # the inherited one is found again
                warn(
                    "the program runs uvloop's event loop, in which noria sees nothing: have it "
                    "use asyncio's default loop (uvicorn: --loop asyncio)"
                )
            return inherited(loop)

        with contextlib.suppress(AttributeError, TypeError):  # another version of uvloop
            module.Loop.run_forever = run_forever

    def multiprocessing_imported(self, module: Any) -> None:
        """Have children that multiprocessing forks call `finish` at their exit.

        They leave by os._exit, without the parent's functions of atexit, but run finalizers.
        """
        module.register_after_fork(
            self, lambda runner: module.Finalize(None, runner.finish, exitpriority=LAST)
        )

    def finish_before_signals(self) -> None:
        """Have signal.raise_signal call `finish` before a signal that ends the process.

        A server such as uvicorn shuts down at SIGTERM, and then raises the signal again with its
        default action, so that its exit status names it; functions of atexit do not run then.
        """
        inherited = signal.raise_signal

        @functools.wraps(inherited)
        def raise_signal(signalnum: int, /) -> None:
            if signalnum in ENDING_SIGNALS and signal.getsignal(signalnum) is signal.SIG_DFL:
                self.finish()
            inherited(signalnum)

        signal.raise_signal = raise_signal

    def finish(self) -> None:
        """At exit: end the recording, show findings, stop the agent."""
        if not self._armed:
            return
        from noria.sight import lifetime

        agent = lifetime.active()
        if self.session is not None and self.session.agent is agent:
            self.session.finish()
        if agent is not None:
            lifetime.release()


def prefer_asyncio(module: Any) -> None:
    """Have uvicorn's ``--loop auto``, the default, use asyncio's loop where uvloop is installed."""
    from uvicorn.loops import asyncio as asyncio_loop

    for name, other in (
        ("auto_loop_factory", "asyncio_loop_factory"),
        ("auto_loop_setup", "asyncio_setup"),  # before uvicorn 0.36
    ):
        if hasattr(module, name) and hasattr(asyncio_loop, other):
            setattr(module, name, getattr(asyncio_loop, other))
