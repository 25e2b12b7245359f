"""Types of command-line values: models, lists of words, sizes, durations, addresses, signals."""

import difflib
import math
import re
import signal
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

if TYPE_CHECKING:  # generic in click 8.3, but at run time not before
    _StrType = click.ParamType[str]
    _StrListType = click.ParamType[list[str]]
    _IntType = click.ParamType[int]
    _AddressType = click.ParamType[tuple[str, int]]
else:
    _StrType = _StrListType = _IntType = _AddressType = click.ParamType

MAX_FINITE_SECONDS = 1e9  # a longer timeout overflows the system's types and counts as infinite
# [HOST:]PORT. A path or a directory is none.
ADDRESS = re.compile(r"(?:(?:\[(?P<ipv6>[^\]/]+)\]|(?P<host>[^:\[\]/\s]+)):)?(?P<port>\d{1,5})")
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?", re.IGNORECASE)


def unknown_choice(kind: str, value: str, choices: Sequence[str]) -> str:
    """Return the message for a *value* that is not among *choices*, with the closest of them."""
    close = difflib.get_close_matches(value.lower().replace("_", "-"), choices, 1)
    close = close or difflib.get_close_matches(value.lower().replace("-", "_"), choices, 1)
    suggestion = f" Did you mean {close[0]}?" if close else ""
    return f"unknown {kind} {value!r}.{suggestion} Choose from: {', '.join(choices)}."


class ModelName(_StrType):
    """The name of a model.

    *extra* are names that are allowed too, such as ``auto``. With *several*, a comma-separated
    list of models in order of preference is allowed.
    """

    name = "model"

    def __init__(self, *extra: str, several: bool = False) -> None:
        self.extra = extra
        self.several = several

    def choices(self) -> tuple[str, ...]:
        """Return every name that is allowed."""
        from noria.models import MODELS

        return (*self.extra, *MODELS)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the value as it is. Raises click.BadParameter."""
        choices, is_list = self.choices(), self.several and "," in value
        for name in value.split(",") if is_list else [value]:
            if name not in choices or (is_list and name in self.extra):
                self.fail(unknown_choice("model", name, choices), param, ctx)
        return str(value)

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Return the names that begin with *incomplete*."""
        return [CompletionItem(name) for name in self.choices() if name.startswith(incomplete)]


class ChoiceList(_StrListType):
    """A comma-separated list of *choices*; without them, of the names of models."""

    def __init__(self, kind: str, choices: Sequence[str] | None = None) -> None:
        self.name = kind
        self._choices = choices

    def choices(self) -> Sequence[str]:
        """Return every word that is allowed."""
        return ModelName().choices() if self._choices is None else self._choices

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> list[str]:
        """Return the words in their order, without repetitions. Raises click.BadParameter."""
        if not isinstance(value, str):
            return list(value)
        words = list(dict.fromkeys(word.strip() for word in value.split(",") if word.strip()))
        if not words:
            self.fail(f"name at least one {self.name}: {', '.join(self.choices())}.", param, ctx)
        for word in words:
            if word not in self.choices():
                self.fail(unknown_choice(self.name, word, self.choices()), param, ctx)
        return words


class Size(_IntType):
    """A number of bytes: 1048576, 1MiB, 1M (the same as 1MiB), 1.5GB (a multiple of 1000)."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the number of bytes. Raises click.BadParameter."""
        if isinstance(value, int):
            return value
        match = _SIZE.fullmatch(value.strip())
        if not match:
            self.fail(f"{value!r} is not a size; write 500M, 1.5GiB, or bytes.", param, ctx)
        number, unit, binary = match.groups()
        is_decimal = unit and not binary and value.strip().lower().endswith("b")
        base = 1000 if is_decimal else 1024
        size = int(float(number) * base ** " kmgt".index(unit.lower() or " "))
        if size < 1:
            self.fail(f"{value!r} is less than one byte.", param, ctx)
        return size


class Seconds(click.FloatRange):
    """A number of seconds from zero to *maximum*. ``inf`` is allowed without one, NaN never."""

    name = "seconds"

    def __init__(self, maximum: float | None = None) -> None:
        super().__init__(min=0, max=maximum)

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return the number; math.inf above MAX_FINITE_SECONDS. Raises click.BadParameter."""
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if math.isnan(number):
            self.fail(f"{value!r} is not a number of seconds.", param, ctx)
        number = float(super().convert(number, param, ctx))
        return number if number < MAX_FINITE_SECONDS else math.inf


class Address(_AddressType):
    """[HOST:]PORT, with an IPv6 address in brackets; without HOST 127.0.0.1."""

    name = "address"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, int]:
        """Return (host, port). Raises click.BadParameter."""
        if isinstance(value, tuple):
            return value
        match = ADDRESS.fullmatch(value.strip())
        if match is None or int(match["port"]) > 65535:
            self.fail(
                f"{value!r} is not [HOST:]PORT; write 9100, 0.0.0.0:9100 or [::1]:9100.", param, ctx
            )
        return match["ipv6"] or match["host"] or "127.0.0.1", int(match["port"])


class SignalName(_IntType):
    """The name of a signal, SIGUSR1 or USR1, or "none"."""

    name = "signal"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the signal's number, 0 for none. Raises click.BadParameter."""
        if isinstance(value, int):
            return value
        name = str(value).upper()
        if name == "NONE":
            return 0
        try:
            number = signal.Signals["SIG" + name.removeprefix("SIG")]
        except KeyError:
            self.fail(f"unknown signal {value!r}; write SIGUSR1, SIGUSR2 or none.", param, ctx)
        if number in (signal.SIGKILL, signal.SIGSTOP):
            self.fail(f"a process cannot handle {number.name}.", param, ctx)
        return int(number)
