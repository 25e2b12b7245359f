"""The URL of a broker, and the messages for what is wrong with it."""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote

from noria.errors import BrokerUnavailable, InvalidBrokerURL, error_message, os_error_reason

# Characters of the reason why a broker cannot be reached: a client may quote another protocol.
MAX_REASON = 200

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "": 1.0}
_SECONDS = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d|)")


@dataclass(frozen=True, slots=True)
class BrokerURL:
    """A broker's URL in its parts: ``scheme://user:password@host:port,host:port/path?options``.

    `hosts`: pairs of host and port, the port None where the URL has none. `start`: the command that
    starts such a broker on this machine, for messages.
    """

    # With the password.
    text: str = field(repr=False)
    scheme: str
    hosts: tuple[tuple[str, int | None], ...] = ()
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    path: str = ""
    options: dict[str, str] = field(default_factory=dict)
    start: str = ""

    @property
    def shown(self) -> str:
        """The URL without its user and password."""
        return redact(self.text)

    def check_options(self, *known: str) -> None:
        """Raise InvalidBrokerURL if there is an option besides the known ones."""
        for name in self.options:
            if name not in known:
                permitted = ", ".join(known) or "none"
                raise InvalidBrokerURL(
                    f"{self.shown}: unknown option {name!r}; {self.scheme} has: {permitted}"
                )

    def seconds(self, name: str, default: float) -> float:
        """Return an option as seconds: ``90``, ``500ms``, ``15m``, ``24h``, ``7d``."""
        value = self.options.get(name)
        if value is None:
            return default
        match = _SECONDS.fullmatch(value)
        if match is None or not float(match[1]):
            raise InvalidBrokerURL(
                f"{self.shown}: {name}={value} is no time; write it as 90s, 15m, 24h or 7d"
            )
        return float(match[1]) * _UNITS[match[2]]

    def integer(self, name: str, default: int, minimum: int = 1, maximum: int = 1 << 31) -> int:
        """Return an option as an integer."""
        value = self.options.get(name)
        if value is None:
            return default
        if not value.isascii() or not value.isdigit() or not minimum <= int(value) <= maximum:
            raise InvalidBrokerURL(
                f"{self.shown}: {name}={value} must be a number from {minimum} to {maximum}"
            )
        return int(value)

    def ssl_context(self) -> ssl.SSLContext:
        """Return the settings of TLS by the options ca, cert and key.

        Raises InvalidBrokerURL if a file cannot be read, or has no certificate or key.
        """
        try:
            context = ssl.create_default_context(cafile=self.options.get("ca"))
            if "cert" in self.options:
                context.load_cert_chain(self.options["cert"], self.options.get("key"))
        except OSError as error:
            raise InvalidBrokerURL(
                f"{self.shown}: the files of ca=, cert= and key=: {error_message(error)}"
            ) from error
        return context

    def unavailable(self, error: BaseException | str, hint: str = "") -> BrokerUnavailable:
        """Return the exception for a broker that cannot be reached, with what to do.

        `hint`: what to do, if it is not to start a broker.
        """
        if isinstance(error, BrokerUnavailable):
            return error
        if not hint and self.start:
            hint = f"start one with: {self.start}"
        if isinstance(error, ssl.SSLCertVerificationError):
            reason = f"its certificate cannot be verified: {error.verify_message}"
            scheme = "nats+tls:// and " if self.scheme == "nats" else ""
            hint = f"an authority is named with {scheme}?ca=FILE"
        elif isinstance(error, OSError) and error.errno and not isinstance(error, ssl.SSLError):
            reason = os_error_reason(error)
        else:
            reason = error if isinstance(error, str) else error_message(error)
        if len(reason) > MAX_REASON:
            reason = f"{reason[:MAX_REASON]} ..."
        hint = f"; {hint}" if hint else ""
        return BrokerUnavailable(f"no broker at {self.shown}: {reason}{hint}")


def redact(text: str) -> str:
    """Return a URL, which may be malformed, without what stands between its scheme and its last @.

    If a password contains / ? # or @, it is not known where the login ends.
    """
    return re.sub(r"^([a-z][a-z0-9+.-]*:)?(//)?.*@", r"\1\2", text, flags=re.DOTALL)


def parse(text: str, start: str = "") -> BrokerURL:
    """Return the parts of a URL. Raises InvalidBrokerURL, whose message has no login."""
    scheme, colon, rest = text.partition(":")
    if not colon or not re.fullmatch(r"[a-z][a-z0-9+.-]*", scheme):
        raise InvalidBrokerURL(
            f"{redact(text)!r} is no broker's URL; examples: memory:, nats://127.0.0.1:4222, "
            "redis://127.0.0.1:6379"
        )
    if not rest.startswith("//"):
        path, _, query = rest.partition("?")
        return BrokerURL(text, scheme, path=unquote(path), options=_options(text, query))
    # Not by urlsplit: from Python 3.15 on it takes several hosts with IPv6 addresses for an error.
    authority = re.split("[/?#]", rest[2:], maxsplit=1)[0]
    rest = rest[2 + len(authority) :]
    if "@" in rest:
        raise InvalidBrokerURL(
            f"{redact(text)!r}: in a login, write / as %2F, ? as %3F and # as %23; in a path and "
            "in options, write @ as %40"
        )
    path, _, query = rest.partition("#")[0].partition("?")
    login, at, addresses = authority.rpartition("@")
    user, colon, password = login.partition(":")
    hosts = tuple(_address(text, address) for address in addresses.split(",") if address)
    if not hosts and not (scheme.endswith("+unix") and path):
        raise InvalidBrokerURL(f"{redact(text)!r} has no host; write {scheme}://127.0.0.1")
    return BrokerURL(
        text,
        scheme,
        hosts,
        unquote(user) if at and user else None,
        unquote(password) if colon else None,
        unquote(path),
        _options(text, query),
        start,
    )


def _address(text: str, address: str) -> tuple[str, int | None]:
    match = re.fullmatch(r"(\[[0-9A-Fa-f:.%]+\]|[^:\[\]]+)(?::([0-9]{1,5}))?", address)
    if match is None or (match[2] and not 0 < int(match[2]) < 65536):
        raise InvalidBrokerURL(f"{redact(text)!r}: {address!r} is no host with a port")
    return match[1].strip("[]"), int(match[2]) if match[2] else None


def _options(text: str, query: str) -> dict[str, str]:
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
    except ValueError:
        raise InvalidBrokerURL(
            f"{redact(text)!r}: options are written as ?name=value&name=value"
        ) from None
    return dict(pairs)
