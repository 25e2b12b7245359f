"""Names of models and other fixed words as command-line values, with the closest match."""

import difflib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

if TYPE_CHECKING:  # generic for the type checker; not at run time in click before 8.3
    _Name = click.ParamType[str]
    _List = click.ParamType[list[str]]
else:
    _Name = _List = click.ParamType


def unknown(what: str, value: str, names: Sequence[str]) -> str:
    """The message for a word that is none of *names*: the closest one, then all of them."""
    close = difflib.get_close_matches(value.lower().replace("_", "-"), names, 1)
    close = close or difflib.get_close_matches(value.lower().replace("-", "_"), names, 1)
    asked = f" Did you mean {close[0]}?" if close else ""
    return f"{what} {value!r} is not known.{asked} The {what}s: {', '.join(names)}."


class ModelName(_Name):
    """The name of a model; *also* lists names that stand for none of the eight.

    With *several*, also a list with commas, in order of preference.
    """

    name = "model"

    def __init__(self, *also: str, several: bool = False) -> None:
        self.also = also
        self.several = several

    def names(self) -> tuple[str, ...]:
        """Every name that is taken here."""
        from noria.models import MODELS

        return (*self.also, *MODELS)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The name itself, or wrong use."""
        known, listed = self.names(), self.several and "," in value
        for name in value.split(",") if listed else [value]:
            if name not in known or (listed and name in self.also):
                self.fail(unknown("model", name, known), param, ctx)
        return str(value)

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Names that begin so."""
        return [CompletionItem(name) for name in self.names() if name.startswith(incomplete)]


class Words(_List):
    """A comma-separated list out of fixed words."""

    def __init__(self, what: str, words: Sequence[str] | None = None) -> None:
        self.name = what
        self._words = words

    def words(self) -> Sequence[str]:
        """Every word that is taken here; the models when none were given."""
        return ModelName().names() if self._words is None else self._words

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> list[str]:
        """The words in the order given, each once, or wrong use."""
        if not isinstance(value, str):
            return list(value)
        found = list(dict.fromkeys(word.strip() for word in value.split(",") if word.strip()))
        if not found:
            self.fail(f"name at least one {self.name}: {', '.join(self.words())}.", param, ctx)
        for word in found:
            if word not in self.words():
                self.fail(unknown(self.name, word, self.words()), param, ctx)
        return found
