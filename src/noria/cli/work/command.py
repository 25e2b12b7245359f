"""``noria work``: run the handlers of a noria.Bus."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from noria.cli.errors import INTERRUPTED_STATUS, CommandError, command_error
from noria.cli.metrics_server import metrics_server
from noria.cli.model_option import model_option
from noria.cli.param_types import Address, Seconds
from noria.errors import NoriaError

if TYPE_CHECKING:
    from noria.bus.bus import Bus
    from noria.cli.work.options import WorkOptions
    from noria.cli.work.output import TextOutput
    from noria.cli.work.supervisor import WorkSupervisor
    from noria.cli.work.totals import WorkTotals
    from noria.servers.config import OnReady

DEFAULT_GRACE = 30.0
RELOAD_GRACE = 3.0


@click.command(short_help="Run the handlers of a noria.Bus.")
@click.argument("target", metavar="MODULE:BUS")
@click.option(
    "--workers",
    metavar="N",
    type=click.IntRange(1, 1024),
    default=1,
    show_default=True,
    help="Number of processes. Each imports the module; one that dies is restarted.",
)
@click.option(
    "--concurrency",
    type=click.IntRange(1, 1_000_000),
    metavar="N",
    help="Maximum number of events in flight for each handler, in each worker; handlers with a "
    "concurrency of their own keep it. Default: that of the bus, 100 unless the module sets it.",
)
@click.option(
    "--grace",
    type=Seconds(),
    metavar="S",
    help="After SIGTERM or Ctrl-C: time that handlers have to finish. Default: 30; with --reload, "
    "3.",
)
@model_option("I/O model of the loop ('noria models' lists them).")
@click.option(
    "--metrics",
    type=Address(),
    metavar="[HOST:]PORT",
    help="Serve Prometheus metrics of the bus and the loops, of all workers, at "
    "http://HOST:PORT/metrics; HOST is 127.0.0.1 by default.",
)
@click.option(
    "--reload",
    is_flag=True,
    help="For development: restart when a .py file below the current directory changes.",
)
@click.option("-v", "--verbose", is_flag=True, help="Print a line for each event handled.")
@click.option("--json", "json", is_flag=True, help="Print JSON lines instead of text.")
def work(
    target: str,
    workers: int,
    concurrency: int | None,
    grace: float | None,
    model: str,
    metrics: tuple[str, int] | None,
    reload: bool,
    verbose: bool,
    json: bool,
) -> None:
    """Run the handlers of a noria.Bus until Ctrl-C.

    MODULE:BUS names the bus: app:bus is the variable bus of app.py. The module may be in the
    current directory. After SIGTERM or Ctrl-C, no more events are taken, and handlers have --grace
    seconds to finish; events that are not handled by then go back to their group. A second Ctrl-C
    cancels the handlers at once.

    \b
    Examples:
      noria work app:bus
      noria work app:bus --workers 4 --concurrency 100
      noria work app:bus --workers 4 --metrics 9100 --json
      noria work app:bus --reload -v

    'noria events' shows and replays the events of a broker.
    """
    if reload and workers > 1:
        raise click.UsageError("--reload is for one worker.")
    from noria.cli.work.options import WorkOptions
    from noria.cli.work.output import JsonOutput, TextOutput

    if grace is None:
        grace = RELOAD_GRACE if reload else DEFAULT_GRACE
    with metrics_server(metrics) as url:
        options = WorkOptions(target, workers, concurrency, grace, model, verbose, url)
        output = (JsonOutput if json else TextOutput)(options)
        if workers == 1 and not reload:
            status = _run_alone(options, output)
        else:
            status = _run_supervised(options, output, reload=reload)
    if status:
        raise click.exceptions.Exit(status)


def _run_alone(options: WorkOptions, output: TextOutput) -> int:
    """Run the bus in this process; return the exit status."""
    from noria.cli.work.worker import Worker

    bus = _load(options)
    worker = Worker(bus, options, output)
    totals = worker.run(lambda model: output.started(bus, model))
    status = _final_status(worker.interrupted, totals)
    if worker.began:
        output.summary(totals, time.monotonic() - worker.began)
    if worker.abandoned:
        # At a normal exit Python would wait for the threads.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return status


def _run_supervised(options: WorkOptions, output: TextOutput, *, reload: bool) -> int:
    """Run the bus in child processes; return the exit status."""
    from noria.cli.work.reload import ReloadSupervisor
    from noria.cli.work.supervisor import WorkSupervisor

    is_first = True

    def serve(ready: OnReady) -> WorkTotals:
        return _in_child(lambda: _run_worker(options, output, ready, announce=is_first or reload))

    if reload:
        supervisor: WorkSupervisor = ReloadSupervisor(serve, output, options.grace, os.getcwd())
    else:
        supervisor = WorkSupervisor(serve, output, options.grace)
    try:
        status = supervisor.start_first()
        if status is not None and not (reload and status == 1):
            return _exit_status(supervisor, status)
        if status is not None:
            output.waiting_for_change()
        is_first = False
        if not reload:
            for _ in range(options.workers - 1):
                supervisor.start_worker()
        totals = supervisor.run()
    finally:
        supervisor.close()
    output.summary(totals, time.monotonic() - supervisor.began, supervisor.restarts)
    return _final_status(supervisor.interrupts > 1, totals)


def _final_status(interrupted: bool, totals: WorkTotals) -> int:
    """Return the exit status after the workers were stopped."""
    if interrupted:
        return INTERRUPTED_STATUS
    return 1 if totals.abandoned else 0


def _exit_status(supervisor: WorkSupervisor, code: int) -> int:
    """Return the exit status when the first worker has ended before it was ready."""
    if supervisor.stopping:
        return INTERRUPTED_STATUS if supervisor.interrupts else 0
    # The worker has printed its error.
    if code in (1, 2):
        return code
    from noria.servers.supervisor import exit_reason

    raise CommandError(f"the first worker ended before it was ready ({exit_reason(code)})")


def _run_worker(
    options: WorkOptions, output: TextOutput, on_ready: OnReady, *, announce: bool
) -> WorkTotals:
    from noria.cli.work.worker import Worker
    from noria.servers.config import ServerInfo

    bus = _load(options)
    # A broker that the first worker cannot reach is an error. Later workers wait for it.
    worker = Worker(bus, options, output, supervised=True, patient=not announce)

    def ready(model: str) -> None:
        on_ready(ServerInfo([], model, "", os.getpid()))
        if announce:
            output.started(bus, model)

    return worker.run(ready)


def _load(options: WorkOptions) -> Bus:
    from noria.cli.work.target import load

    bus = load(options.target, options.workers)
    if options.concurrency is not None:
        bus.set_concurrency(options.concurrency)
    # After the import: a program that configures logging itself keeps its configuration.
    process = " %(process)d" if options.workers > 1 else ""
    is_configured = logging.getLogger().hasHandlers()
    logging.basicConfig(
        format=f"%(asctime)s{process} %(levelname)s %(name)s: %(message)s",
        datefmt="%H:%M:%S",
        level=logging.INFO if options.verbose else logging.WARNING,
    )
    if not is_configured:
        # Log that a connection is back, not only that it was lost.
        logging.getLogger("noria.bus").setLevel(logging.INFO)
    return bus


def _in_child(function: Callable[[], WorkTotals]) -> WorkTotals:
    """Call a function; show its error and raise SystemExit as the command would."""
    try:
        return function()
    except click.ClickException as error:
        if isinstance(error, click.UsageError):
            error.ctx = click.get_current_context(silent=True)
        error.show()
        raise SystemExit(error.exit_code) from None
    except click.exceptions.Exit as error:
        raise SystemExit(error.exit_code) from None
    except (NoriaError, OSError) as error:
        shown = command_error(error)
        shown.show()
        raise SystemExit(shown.exit_code) from None
