"""The certificate and the private key of ``--tls``."""

import os
import re
import ssl

from noria.cli.errors import CommandError
from noria.errors import os_error_reason

MAX_READ_BYTES = 1024 * 1024  # of a file whose labels are searched
_LABEL = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----")  # RFC 7468, section 2


def load_tls_context(certificate: str, key: str) -> ssl.SSLContext:
    """Return the context of an HTTPS server with these PEM files. Raises CommandError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_alpn_protocols(["http/1.1"])

    def password() -> str:
        raise CommandError(
            f"{key} is encrypted", "decrypt it first: openssl pkey -in KEY -out PLAIN"
        )

    try:
        context.load_cert_chain(certificate, key, password)
    except ssl.SSLError as error:
        reason = (error.reason or "the PEM data is damaged").replace("_", " ").lower()
        raise CommandError(
            _explain_contents(certificate, key) or f"cannot use {certificate} and {key}: {reason}",
            "--tls takes two PEM files: a certificate, then the private key that belongs to it",
        ) from None
    except OSError as error:
        raise CommandError(
            f"cannot read {error.filename or certificate}: {os_error_reason(error)}"
        ) from None
    return context


def _explain_contents(certificate: str, key: str) -> str:
    """Return which file does not contain what it should; "" if both seem right."""
    sentences = []
    for path, expected in ((certificate, "certificate"), (key, "private key")):
        found = _read_contents(path)
        if found is None or expected in found:
            continue
        what = f"has a {found[0]} instead of the {expected}" if found else "is not a PEM file"
        sentence = f"{path} {what}"
        if sentence not in sentences:
            sentences.append(sentence)
    return ", and ".join(sentences)


def _read_contents(path: str) -> list[str] | None:
    """Return the kinds of objects in a PEM file; None if it cannot be read a second time."""
    if not os.path.isfile(path):  # a pipe has been read to its end
        return None
    try:
        with open(path, "rb") as file:
            labels = _LABEL.findall(file.read(MAX_READ_BYTES))
    except OSError:
        return None
    return [_kind(label.decode()) for label in labels]


def _kind(label: str) -> str:
    if label.endswith("PRIVATE KEY"):
        return "private key"
    if label.endswith("CERTIFICATE"):
        return "certificate"
    return label.lower()
