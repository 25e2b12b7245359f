"""``noria top --web``: the address of the page, and its end."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

import click

from noria.cli.errors import listen_error

if TYPE_CHECKING:
    from noria.sight.top.session import Session


def serve(session: Session, address: str) -> None:
    """Serve the figures at [HOST:]PORT until Ctrl-C. Raises CommandError."""
    from noria.sight.report.live import LivePage
    from noria.sight.top.web import serve_until_signal

    host, _, number = address.rpartition(":")
    host, port = host.strip("[]") or "127.0.0.1", int(number)
    page = LivePage(session)
    page.start()
    try:
        serve_until_signal(page, host, port, lambda url: _announce(url, host))
    except OSError as error:
        raise listen_error(error, host, port, None) from error
    finally:
        page.close()


def _announce(url: str, host: str) -> None:
    click.echo(f"{url}\nOpen this address in a browser. Ctrl-C stops.")
    if not _is_loopback(host):
        click.echo(
            "noria: other machines can reach this address, and HTTP is not encrypted: use an ssh "
            "tunnel to 127.0.0.1 instead",
            err=True,
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
