"""The certificate and the key of ``--tls``, and in words what is wrong with them."""

import os
import re
import ssl

from noria.cli.errors import Problem, reason

MOST = 1024 * 1024  # bytes of a file that are looked at
_LABEL = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----")  # RFC 7468, section 2


def context(certificate: str, key: str) -> ssl.SSLContext:
    """TLS for a server with these PEM files. Raises Problem."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.set_alpn_protocols(["http/1.1"])

    def password() -> str:
        raise Problem(f"{key} is encrypted", "openssl pkey -in KEY -out PLAIN takes that off")

    try:
        made.load_cert_chain(certificate, key, password)
    except ssl.SSLError as error:
        why = (error.reason or "the PEM in them is damaged").replace("_", " ").lower()
        raise Problem(
            _misplaced(certificate, key) or f"cannot use {certificate} and {key}: {why}",
            "--tls takes a certificate and then the private key that belongs to it, as PEM files",
        ) from None
    except OSError as error:
        raise Problem(f"cannot read {error.filename or certificate}: {reason(error)}") from None
    return made


def _misplaced(certificate: str, key: str) -> str:
    """Which of the files does not have what it should have; "" if they both seem to have it."""
    said = []
    for path, wanted in ((certificate, "certificate"), (key, "private key")):
        found = _contents(path)
        if found is None or wanted in found:
            continue
        what = f"has a {found[0]} where the {wanted} should be" if found else "is no PEM file"
        sentence = f"{path} {what}"
        if sentence not in said:
            said.append(sentence)
    return ", and ".join(said)


def _contents(path: str) -> list[str] | None:
    """What is in a PEM file, in words; None if that cannot be read a second time."""
    if not os.path.isfile(path):  # a pipe has been read to its end
        return None
    try:
        with open(path, "rb") as file:
            labels = _LABEL.findall(file.read(MOST))
    except OSError:
        return None
    return [_words(label.decode()) for label in labels]


def _words(label: str) -> str:
    if label.endswith("PRIVATE KEY"):
        return "private key"
    if label.endswith("CERTIFICATE"):
        return "certificate"
    return label.lower()
