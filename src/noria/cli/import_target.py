"""``MODULE:NAME``: imports a module of the user, and finds a name in it."""

import difflib
import importlib
import os
import sys
import traceback
from collections.abc import Callable
from types import ModuleType, TracebackType
from typing import Any, NoReturn

import click

from noria.cli.errors import CommandError
from noria.errors import BusError, error_message


def import_module(name: str) -> ModuleType:
    """Import a module, which may be in the current directory.

    Raises UsageError if there is none. An exception of the user's module is shown with its
    traceback, and Exit is raised.
    """
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
            exit_with_traceback(error, name)
        raise click.UsageError(
            f"there is no module {error.name!r} in {directory} or among the installed packages."
        ) from None
    except BusError as error:
        # A noria.Bus without its package, or with a wrong URL: the message says what to do.
        raise CommandError(f"cannot import {name}: {error_message(error)}") from None
    except Exception as error:
        exit_with_traceback(error, name)


def find_attribute(module: ModuleType, path: str, candidates: Callable[[ModuleType], str]) -> Any:
    """Return the attribute of a module, or of an object in it: ``NAME.NAME``.

    Raises UsageError with the closest name, or else with what `candidates` says.
    """
    found: Any = module
    for part in path.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            close = difflib.get_close_matches(part, dir(found), 1)
            hint = f"Did you mean {close[0]}?" if close else candidates(module)
            raise click.UsageError(f"module {module.__name__!r} has no {path!r}. {hint}") from None
    return found


def exit_with_traceback(error: Exception, target: str) -> NoReturn:
    """Print an error of the user's code with a traceback from their frames on; raise Exit(1)."""
    trace: TracebackType | None = error.__traceback__
    while trace is not None and _is_import_frame(trace.tb_frame.f_code.co_filename):
        trace = trace.tb_next
    traceback.print_exception(type(error), error, trace)
    click.echo(f"noria: cannot use {target}: {type(error).__name__}: {error}", err=True)
    raise click.exceptions.Exit(1) from None


def _is_import_frame(file: str) -> bool:
    """Whether the frame is of noria's commands or of importlib."""
    return (
        file.startswith((os.path.dirname(__file__) + os.sep, "<frozen importlib"))
        or "/importlib/" in file
    )
