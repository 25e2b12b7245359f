"""How a conversation with a server ended."""

from dataclasses import dataclass

from noria.cli.errors import reason


@dataclass(frozen=True)
class End:
    """*message* for standard error ("" for none) and the exit status."""

    message: str = ""
    status: int = 0


CLOSED = End("server closed the connection")
UNFINISHED = End("server closed the connection before it had taken everything", 1)


def broken(error: OSError) -> End:
    """The end for an error of the connection."""
    if isinstance(error, (ConnectionResetError, BrokenPipeError)):
        return End("connection reset by server", 1)
    return End(f"connection lost: {reason(error)}", 1)
