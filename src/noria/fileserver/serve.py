"""serve_files: serve a directory over HTTP until a signal stops the server."""

from __future__ import annotations

import asyncio

from noria.fileserver.options import ServerOptions
from noria.fileserver.server import run_server
from noria.servers.config import OnReady, Summary


def serve_files(options: ServerOptions, ready: OnReady | None = None) -> Summary:
    """Serve a directory until SIGINT, SIGTERM or SIGHUP, in one process or several.

    SIGTERM lets open requests finish, for at most `grace` seconds; SIGINT, or a second SIGTERM,
    ends them at once. SIGHUP is as for noria.serve.

    With `events`, the broker must be there at the start; afterwards it may go and return.

    Raises OSError that names the address or the directory, the errors of `models.make`, and
    BusError and ImportError for the broker.
    """
    if options.events:
        from noria.fileserver.file_events import check_broker  # needs noria.bus

        # Once, before the workers are forked: one of them that is restarted does not need it.
        asyncio.run(check_broker(options.events))
    if options.workers > 1:
        from noria.fileserver.workers import run_workers  # one process does not need it

        return run_workers(options, ready)
    return run_server(options, ready)
