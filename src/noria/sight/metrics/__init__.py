"""Prometheus and OpenMetrics figures of this process's loops and of its worker processes.

`readings` and `totals` compute them, `collector` gathers them, `server` and `noria.sight.asgi`
serve them. Needs prometheus_client, which ``pip install 'noria[metrics]'`` installs.
"""

try:
    import prometheus_client  # noqa: F401
except ModuleNotFoundError as error:
    if error.name != "prometheus_client":
        raise
    raise ModuleNotFoundError(
        "noria's metrics need prometheus_client: pip install 'noria[metrics]'", name=error.name
    ) from None

from noria.sight.metrics.collector import LoopCollector
from noria.sight.metrics.server import MetricsServer, serve_metrics

__all__ = ["LoopCollector", "MetricsServer", "serve_metrics"]
