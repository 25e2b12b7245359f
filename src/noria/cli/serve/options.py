"""The options that `noria serve` and `noria serve files` share."""

from collections.abc import Callable
from typing import Any

import click

from noria.cli.param_types import Seconds

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

host_option = click.option(
    "--host", default="127.0.0.1", show_default=True, help="Address to listen on."
)

workers_option = click.option(
    "--workers",
    type=click.IntRange(1, 1024),
    default=1,
    show_default=True,
    help="Number of processes that share the port.",
)


def port_option(default: int) -> Decorator:
    """--port with this default."""
    return click.option(
        "--port",
        type=click.IntRange(0, 65535),
        default=default,
        show_default=True,
        help="Port to listen on; 0 takes any free port.",
    )


def grace_option(pending: str) -> Decorator:
    """--grace; `pending` names what may finish in this time."""
    return click.option(
        "--grace",
        type=Seconds(),
        default=30.0,
        show_default=True,
        metavar="S",
        help=f"After SIGTERM or SIGHUP: time that {pending} have to finish.",
    )
