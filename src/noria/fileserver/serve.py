"""serve_files: serve a directory over HTTP until a signal stops the server."""

from __future__ import annotations

from noria.fileserver.options import ServerOptions
from noria.fileserver.server import run_server
from noria.servers.config import OnReady, Summary


def serve_files(options: ServerOptions, ready: OnReady | None = None) -> Summary:
    """Serve a directory until SIGINT, SIGTERM or SIGHUP, in one process or several.

    SIGTERM lets open requests finish, for at most `grace` seconds; SIGINT, or a second SIGTERM,
    ends them at once. SIGHUP is as for noria.serve.

    Raises OSError that names the address or the directory, and the errors of `models.make`.
    """
    if options.workers > 1:
        from noria.fileserver.workers import run_workers  # one process does not need it

        return run_workers(options, ready)
    return run_server(options, ready)
