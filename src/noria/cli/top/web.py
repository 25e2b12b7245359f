"""``noria top --web``: the address of the page, and its end."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from noria.cli.errors import CommandError, format_address
from noria.errors import NoriaError, os_error_reason

if TYPE_CHECKING:
    from noria.sight.top.session import Session


def serve(session: Session, host: str, port: int) -> None:
    """Serve the figures until Ctrl-C. Raises CommandError."""
    from noria.sight.report.live import LivePage
    from noria.sight.top.web import serve_until_signal

    page = LivePage(session)
    page.start()
    try:
        serve_until_signal(page, host, port, lambda url: _announce(url, host))
    except NoriaError:
        raise
    except OSError as error:
        raise CommandError(
            f"cannot listen on {format_address(host, port, None)}: {os_error_reason(error)}",
            "choose another address with --web [HOST:]PORT; port 0 takes any free one",
        ) from error
    finally:
        page.close()


def _announce(url: str, host: str) -> None:
    from noria.fileserver.allowed_hosts import is_loopback

    click.echo(f"{url}\nOpen this address in a browser. Ctrl-C stops.")
    if host != "localhost" and not is_loopback(host):
        click.echo(
            "noria: other machines can reach this address, and HTTP is not encrypted: use an ssh "
            "tunnel to 127.0.0.1 instead",
            err=True,
        )
