"""``--metrics [HOST:]PORT``: serves the figures of a command's loops on a port of their own."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from noria.cli.errors import CommandError
from noria.errors import os_error_reason

OPTION = "--metrics"


@contextlib.contextmanager
def metrics_server(address: tuple[str, int] | None) -> Iterator[str | None]:
    """Watch this process and its workers, and serve their metrics; yield the URL.

    None: do nothing and yield None. Raises CommandError.
    """
    if address is None:
        yield None
        return
    with _metrics_errors():
        from noria.sight.metrics import serve_metrics
    from noria.sight import lifetime
    from noria.sight.settings import Settings

    try:
        agent = lifetime.acquire(Settings(report_blocks=False))
    except OSError as error:
        raise CommandError(f"cannot watch this process: {os_error_reason(error)}") from None
    try:
        with _metrics_errors():
            server = serve_metrics(agent, *address)
        try:
            yield f"http://{server.address}/metrics"
        finally:
            server.close()
    finally:
        lifetime.release()


def check_metrics(address: tuple[str, int]) -> None:
    """Raise CommandError if metrics cannot be served at an address."""
    with _metrics_errors():
        from noria.sight.metrics.server import check_address

        check_address(*address)


@contextlib.contextmanager
def _metrics_errors() -> Iterator[None]:
    """Raise CommandError if prometheus_client is missing, or for an address that is not free."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name != "prometheus_client":
            raise
        raise CommandError(
            "--metrics needs prometheus_client", "pip install 'noria[metrics]'"
        ) from None
    except OSError as error:
        raise CommandError(
            error.strerror or os_error_reason(error),
            f"choose another port with {OPTION} [HOST:]PORT; 0 takes any free one",
        ) from None
