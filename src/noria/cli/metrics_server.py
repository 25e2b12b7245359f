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
        raise CommandError(f"cannot watch this process: {os_error_reason(error)}") from None
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
