"""``--metrics [HOST:]PORT``: serves the figures of the server's loops on a port of their own."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import click

from noria.cli.errors import CommandError
from noria.cli.param_types import ADDRESS, Address
from noria.errors import os_error_reason

OPTION = "--metrics"
NO_ADDRESS = ("", -1)  # what --metrics without an address means


class OptionalAddress(Address):
    """As Address; an empty value is NO_ADDRESS."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, int]:
        """Return (host, port), or NO_ADDRESS. Raises click.BadParameter."""
        return super().convert(value, param, ctx) if value else NO_ADDRESS


class CommandWithOptionalAddress(click.Command):
    """A command whose option --metrics may have an address, and may be followed by a directory.

    Click's options with an optional value take any word that follows.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the arguments; a word after --metrics is its value if it is an address."""
        joined: list[str] = []
        words = iter(args)
        for word in words:
            if word == "--":
                joined.append(word)
                break
            if joined and joined[-1] == OPTION:
                joined[-1] = f"{OPTION}="
                if ADDRESS.fullmatch(word):
                    joined[-1] += word
                    continue
            joined.append(word)
        if joined and joined[-1] == OPTION:
            joined[-1] = f"{OPTION}="
        return super().parse_args(ctx, [*joined, *words])


@contextlib.contextmanager
def metrics_server(address: tuple[str, int] | None) -> Iterator[str | None]:
    """Watch this process and its workers, and serve their metrics; yield the URL.

    None: do nothing and yield None. Raises CommandError.
    """
    if address is None:
        yield None
        return
    try:
        from noria.sight.metrics import serve_metrics
    except ModuleNotFoundError as error:
        if error.name != "prometheus_client":
            raise
        raise CommandError(
            "--metrics needs prometheus_client", "pip install 'noria[metrics]'"
        ) from None
    from noria.sight import lifetime
    from noria.sight.settings import Settings

    try:
        agent = lifetime.acquire(Settings(report_blocks=False))
    except OSError as error:
        raise CommandError(f"cannot watch the server: {os_error_reason(error)}") from None
    try:
        server = serve_metrics(agent, *address)
    except OSError as error:
        lifetime.release()
        raise CommandError(
            error.strerror or os_error_reason(error),
            f"choose another port with {OPTION} [HOST:]PORT; 0 takes any free one",
        ) from None
    try:
        yield f"http://{server.address}/metrics"
    finally:
        server.close()
        lifetime.release()
