"""Why a connection ended."""

from dataclasses import dataclass

from noria.errors import os_error_reason


@dataclass(frozen=True)
class EndReason:
    """A message for standard error ("" for none) and the exit status."""

    message: str = ""
    status: int = 0


USER_ENDED = EndReason()
SERVER_CLOSED = EndReason("server closed the connection")
SERVER_CLOSED_EARLY = EndReason("server closed the connection before it received everything", 1)


def connection_lost(error: OSError) -> EndReason:
    """Return the EndReason for an error of the connection."""
    if isinstance(error, (ConnectionResetError, BrokenPipeError)):
        return EndReason("connection reset by server", 1)
    return EndReason(f"connection lost: {os_error_reason(error)}", 1)
