"""``noria run``: any asyncio program on noria's loop, watched."""

import os
import subprocess
import sys
from typing import Any

import click

from noria.cli.errors import CommandError
from noria.cli.metrics_server import check_metrics
from noria.cli.model_option import model_option
from noria.cli.param_types import Address, SignalName, Size
from noria.cli.threshold_option import threshold_option

MAX_BLOCK_MS = 24 * 3600 * 1000.0


class ProgramCommand(click.Command):
    """A command whose options end where the program begins, as those of `python` do."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Split the arguments at SCRIPT, -m or -c; parse the ones before it."""
        own, program = self._split(list(args))
        ctx.meta["noria.program"] = program
        return super().parse_args(ctx, own)

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        """Return the parts of the usage line."""
        return [
            *super().collect_usage_pieces(ctx),
            "{SCRIPT | -m MODULE | -c CODE}",
            "[ARGS]...",
        ]

    def _split(self, args: list[str]) -> tuple[list[str], list[str]]:
        with_value = {
            name
            for param in self.params
            if isinstance(param, click.Option) and not param.is_flag and not param.count
            for name in param.opts
        }
        index = 0
        while index < len(args):
            word = args[index]
            if word == "--":
                return args[:index], args[index + 1 :]
            if not word.startswith("-") or word == "-" or word[:2] in ("-m", "-c"):
                break
            index += 2 if word in with_value else 1
        return args[:index], args[index:]


@click.command(
    cls=ProgramCommand,
    short_help="Run any asyncio program on noria's loop, and watch it.",
    options_metavar="[OPTIONS]",
)
@model_option("I/O model of the loop ('noria models' lists them).")
@click.option(
    "--watch/--no-watch",
    default=True,
    show_default=True,
    help="Record into memory and listen for 'noria top'.",
)
@click.option("--record", metavar="FILE", type=click.Path(dir_okay=False), help="Record to a file.")
@click.option(
    "--metrics", metavar="[HOST:]PORT", type=Address(), help="Serve metrics for Prometheus."
)
@click.option(
    "--max-block",
    metavar="MS",
    type=click.FloatRange(1, MAX_BLOCK_MS),
    default=100.0,
    show_default=True,
    help="Report a turn of the loop that lasts longer, while it lasts.",
)
@click.option(
    "--buffer",
    metavar="SIZE",
    type=Size(),
    default="12MiB",
    show_default=True,
    help="Memory for the records of each loop, 64KiB to 24GiB.",
)
@click.option(
    "--findings/--no-findings",
    default=True,
    show_default=True,
    help="At exit, show what was found on standard error, if anything was.",
)
@threshold_option
@click.option("--json", "json", is_flag=True, help="Show the findings as a line of JSON.")
@click.option(
    "--dump-signal",
    metavar="NAME",
    type=SignalName(),
    default="SIGUSR2",
    show_default=True,
    help="Signal that writes a flight recording, unless the program handles it; 'none': no signal.",
)
@click.option(
    "--dump-dir",
    metavar="DIR",
    type=click.Path(file_okay=False, exists=True, writable=True),
    default=".",
    show_default=True,
    help="Directory for flight recordings, which are written on the signal and on a crash.",
)
@click.option("--dump-on-block", is_flag=True, help="Write one when the loop is blocked, too.")
@click.pass_context
def run(ctx: click.Context, /, **values: Any) -> None:
    """Run SCRIPT, -m MODULE or -c CODE with its arguments, as python does, on noria's event loop.

    asyncio.run, asyncio.Runner, policies and asyncio's loop classes create noria's loop, also in
    child processes. The options must come before the program.

    \b
    Examples:
      noria run app.py --port 8000
      noria run --record run.noria app.py      then: noria report run.noria
      noria run -m uvicorn app:app             in another terminal: noria top
      noria run --max-block 50 -m pytest -x
    """
    program = ctx.meta["noria.program"]
    if not program or (program[0] in ("-m", "-c") and len(program) < 2):
        raise click.UsageError("name the program: SCRIPT, -m MODULE or -c CODE.")
    if not sys.executable:
        raise CommandError("the path of the Python interpreter is unknown (sys.executable)")
    if sys.flags.ignore_environment:
        raise CommandError(
            "noria run needs the environment variables of Python", "run it without -I and -E"
        )
    _check_buffer(values["buffer"])
    _check_model(values["model"])
    from noria.sight.run_options import RunOptions
    from noria.sight.runner import environment

    options = RunOptions(
        pid=os.getpid(),
        prefix=sys.prefix,
        model=values["model"],
        watch=values["watch"],
        record=os.path.abspath(values["record"]) if values["record"] else None,
        metrics=values["metrics"],
        max_block=values["max_block"] / 1000,
        buffer=values["buffer"],
        findings=values["findings"],
        json=values["json"],
        dump_signal=values["dump_signal"],
        dump_dir=os.path.abspath(values["dump_dir"]),
        dump_on_block=values["dump_on_block"],
    )
    if options.record is not None:
        _check_record(options.record)
    if options.metrics is not None:
        # Here: once the program runs, an error is only a message.
        check_metrics(options.metrics)
    sys.stdout.flush()
    sys.stderr.flush()
    command = [sys.executable, *_interpreter_options(), *program]
    os.execve(sys.executable, command, environment(options, os.environ))


def _check_buffer(size: int) -> None:
    """Raise BadParameter for a ring that is too small or too large."""
    from noria.sight.settings import MAX_BUFFER, MIN_BUFFER

    if not MIN_BUFFER <= size <= MAX_BUFFER:
        raise click.BadParameter(
            f"{size} bytes; the size must be {MIN_BUFFER} (64 KiB) to {MAX_BUFFER} bytes (24 GiB).",
            param_hint="'--buffer'",
        )


def _check_model(name: str) -> None:
    """Raise CommandError for a model that has no asyncio loop, or that does not work here."""
    from noria.errors import NoriaError
    from noria.models import MODELS, info, make

    if name in MODELS and info(name).capabilities["asyncio"] == "none":
        usable = [each for each in MODELS if info(each).capabilities["asyncio"] != "none"]
        raise CommandError(f"{name} cannot run asyncio", f"use one of: {', '.join(usable)}")
    try:
        make(name).close()
    except NoriaError as error:
        raise CommandError(str(error), "'noria models' lists the models that work here") from None


def _check_record(path: str) -> None:
    """Raise OSError if the recording cannot be written."""
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))


def _interpreter_options() -> list[str]:
    """Return the options of the running interpreter (-X dev, -W error, …)."""
    function = getattr(subprocess, "_args_from_interpreter_flags", None)
    return list(function()) if function is not None else []
