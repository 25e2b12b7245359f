"""The exceptions that noria raises, and how an OSError reads in a message."""

import errno
import os


class NoriaError(Exception):
    """Base class of noria's exceptions. Each message says what is wrong and what to do instead."""


class UnknownModel(NoriaError, ValueError):
    """No model has this name."""


class ModelUnavailable(NoriaError, OSError):
    """The machine refuses this model (seccomp, sysctl, an old kernel, a memory limit)."""


class Unsupported(NoriaError, NotImplementedError):
    """The model cannot do this at all; the message names one that can."""


class ModelLimit(NoriaError, OSError):
    """The model cannot do more of this (descriptor numbers must be below 1024 for ``select``)."""


class RecordingError(NoriaError, ValueError):
    """A recording, or the memory of a recorder, is not what noria writes: damaged, or of another
    version."""


class BusError(NoriaError):
    """Base class of the exceptions of noria.Bus."""


class BrokerUnavailable(BusError, ConnectionError):
    """The broker cannot be reached, or the connection to it broke.

    The message says what to start, with the command.
    """


class EmitTimeout(BusError, TimeoutError):
    """The broker did not confirm an event within the time-out of `emit`.

    The event may have been published nevertheless. Emitting it again with the same ``id=`` is safe.
    """


class BusClosed(BusError, RuntimeError):
    """The bus is draining or closed, and publishes nothing any more."""


class InvalidBrokerURL(BusError, ValueError):
    """The URL names no broker that noria knows, or has an option that the broker does not have."""


class InvalidEvent(BusError, ValueError):
    """This is no CloudEvent that noria can publish or handle."""


class EventTooLarge(InvalidEvent):
    """The encoded event is larger than the bus or the broker permits."""


class EventRejected(BusError):
    """Raised by a handler for an event that can never succeed.

    The event goes to the dead letters at once, without retries.
    """


class InvalidData(EventRejected, ValueError):
    """The data of an event does not fit the type that its handler declares."""


def os_error_reason(error: OSError) -> str:
    """Return the system's reason alone: "connection refused", without number or file name.

    Takes a socket.gaierror too, but not an ssl.SSLError, whose numbers are OpenSSL's.
    """
    number = error.errno or 0
    # The numbers of getaddrinfo(3) are its own, and negative.
    text = os.strerror(number) if number in errno.errorcode else error_message(error)
    return text[0].lower() + text[1:]


def error_message(error: BaseException) -> str:
    """Return the message of an exception on one line, an OSError's without its number.

    The name of its class if it has no message. Never raises, even if the exception's __str__ does.
    """
    try:
        text = str((isinstance(error, OSError) and error.strerror) or error)
    except Exception as problem:
        return f"__str__ raised {type(problem).__name__}"
    return " ".join(text.split()) or type(error).__name__
