"""The option --model of the commands that run a loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from noria.cli.param_types import ModelName


def model_option(help: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """--model: "auto", a model, or several; `help` says what they are for."""
    return click.option(
        "--model",
        type=ModelName("auto", several=True),
        default="auto",
        show_default=True,
        help=help,
    )
