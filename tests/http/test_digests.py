"""SHA-256 in Repr-Digest, Content-Digest (RFC 9530) and X-Checksum-Sha256."""

import base64
import hashlib
import time

import pytest

from noria.http import digests
from noria.http.messages import Headers, HTTPException

ONE, TWO = hashlib.sha256(b"one").digest(), hashlib.sha256(b"two").digest()
A, B = digests.format_repr_digest(ONE), digests.format_repr_digest(TWO)


@pytest.mark.parametrize(
    "text",
    [
        A,
        f" {A} ",
        f"{A};weight=1;q",
        f"md5=:AAAA:,{A}",
        f"sha-512=:AAAA: \t,\t {A}, unixsum=1, a=?1, b=-1.5, c=token/x, d=(1 :AA==:;x), e=@1, f",
        f'a="x, sha-256=:AAAA:", {A}',
        f'a="\\"", b=%"f%c3", {A}',
        f"{B}, {A}",  # of members with the same key the last one counts
        A[:-2] + ":",  # without padding
    ],
)
def test_repr_digest(text):
    assert digests.parse_repr_digest(text) == ONE


@pytest.mark.parametrize(
    "text",
    [
        "",
        "md5=:AAAA:",
        'a="sha-256=:AAAA:"',
        # Not Dictionaries: the field is ignored as a whole.
        A.replace("sha", "SHA"),
        f"{A},",
        f",{A}",
        f"{A} {A}",
        f"{A}x",
        f'{A}, a="',
        f"{A}, a=(1",
        f"{A}\n",
        "12",
        "\xb2",
    ],
)
def test_repr_digest_without_a_sha256(text):
    assert digests.parse_repr_digest(text) is None


@pytest.mark.parametrize(
    "text",
    [
        "sha-256",
        "sha-256=1",
        "sha-256=token",
        "sha-256=(:AAAA:)",
        "sha-256=::",
        "sha-256=:AAAA:",
        "sha-256=:?:",
        "sha-256=:\xb2:",
        f"{A}, sha-256=:AAAA:",
        f"sha-256=:{'A' * 5001}:",
        f"sha-256=:{base64.b64encode(ONE + b'x').decode()}:",
    ],
)
def test_repr_digest_with_a_malformed_sha256(text):
    with pytest.raises(ValueError, match="32 bytes in base64"):
        digests.parse_repr_digest(text)
    with pytest.raises(HTTPException):
        digests.request_sha256(Headers([("Repr-Digest", text)]))


LONG = [
    "a=" + "(" * 50_000,
    "a=(" + "a " * 50_000,
    'a="' + "\\a" * 50_000,
    "a;" * 50_000,
    "a=1," * 50_000,
]


@pytest.mark.parametrize("text", LONG)
def test_parsing_takes_linear_time(text):
    started = time.monotonic()
    assert digests.parse_repr_digest(text) is None
    assert time.monotonic() - started < 5


def test_hex_sha256():
    assert digests.parse_hex_sha256(ONE.hex()) == digests.parse_hex_sha256(ONE.hex().upper()) == ONE
    for text in ("", "zz", ONE.hex()[1:], f" {ONE.hex()}", ONE.hex(" "), "\u0661" * 64):
        with pytest.raises(ValueError, match="64 hexadecimal digits"):
            digests.parse_hex_sha256(text)


def test_the_digests_of_a_request_must_agree():
    fields = [("Repr-Digest", A), ("X-Checksum-Sha256", ONE.hex())]
    assert digests.request_sha256(Headers(fields)) == ONE
    assert digests.request_sha256(Headers([("Content-Digest", A)])) == ONE
    assert digests.request_sha256(Headers()) is None
    with pytest.raises(HTTPException, match="contradict"):
        digests.request_sha256(Headers([*fields, ("Content-Digest", B)]))
