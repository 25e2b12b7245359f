"""The header fields of tus: numbers, Upload-Metadata, Upload-Checksum, Upload-Concat."""

from __future__ import annotations

import base64
import hashlib
from urllib.parse import urlsplit

from noria.fileserver.request_paths import require_file_path
from noria.http.messages import HTTPException

UPLOADS_PATH = "/-/uploads/"
CHECKSUM_ALGORITHMS = ("sha1", "sha256")
MAX_METADATA = 4096  # bytes
MAX_PARTS = 1000  # of one concatenation


class Checksum:
    """The algorithm and the expected digest of Upload-Checksum."""

    def __init__(self, algorithm: str, digest: bytes) -> None:
        self._hash = hashlib.new(algorithm)
        self._digest = digest

    @classmethod
    def parse(cls, text: str) -> Checksum | None:
        """None for an empty field. Raises HTTPException 400."""
        if not text:
            return None
        algorithm, _, value = text.partition(" ")
        if algorithm not in CHECKSUM_ALGORITHMS:
            raise HTTPException(
                400, f"The supported checksum algorithms are {', '.join(CHECKSUM_ALGORITHMS)}."
            )
        try:
            return cls(algorithm, base64.b64decode(value.strip(), validate=True))
        except ValueError:
            raise HTTPException(
                400, "Upload-Checksum must be an algorithm and a digest in base64."
            ) from None

    def update(self, data: bytes) -> None:
        self._hash.update(data)

    def matches(self) -> bool:
        """Whether the data so far has the expected digest."""
        return self._hash.digest() == self._digest


def parse_number(text: str, name: str) -> int:
    """The number of bytes in the field `name`. Raises HTTPException 400."""
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise HTTPException(400, f"{name} must be sent once, as a decimal number of bytes.")
    return int(text)


def parse_metadata(text: str) -> dict[str, str]:
    """The pairs of Upload-Metadata: "key base64-of-value", separated by commas.

    Raises HTTPException 400.
    """
    if len(text) > MAX_METADATA:
        raise HTTPException(400, f"Upload-Metadata may have at most {MAX_METADATA} bytes.")
    pairs = {}
    for pair in text.split(",") if text.strip() else ():
        key, _, value = pair.strip().partition(" ")
        try:
            pairs[key] = base64.b64decode(value.strip(), validate=True).decode()
        except ValueError:
            raise HTTPException(
                400, f"In Upload-Metadata the value of {key!r} is not UTF-8 in base64."
            ) from None
    return pairs


def destination_of(metadata: str) -> str:
    """The path of the file that an upload becomes.

    It is made of the metadata `directory`, and `relativePath` or `filename`. Raises HTTPException.
    """
    pairs = parse_metadata(metadata)
    directory = pairs.get("directory") or "/"
    name = pairs.get("relativePath") or ""
    if name in ("", "null"):  # some clients send null for a file that was chosen by itself
        name = pairs.get("filename") or pairs.get("name") or ""
        if "/" in name:
            raise HTTPException(
                400, "The filename in Upload-Metadata has a slash: use relativePath."
            )
    if not name:
        raise HTTPException(400, "Upload-Metadata must have a filename.")
    if not (directory.startswith("/") and directory.endswith("/")):
        raise HTTPException(400, "The directory in Upload-Metadata must begin and end with '/'.")
    path = directory + name.removeprefix("/")
    require_file_path(path)
    return path


def parse_parts(concat: str) -> list[str]:
    """The ids of the uploads that "final;URL URL ..." names. Raises HTTPException 400."""
    urls = concat.removeprefix("final;").split()
    if not 0 < len(urls) <= MAX_PARTS:
        raise HTTPException(400, f"A final upload must name 1 to {MAX_PARTS} partial uploads.")
    try:
        return [urlsplit(url).path.removeprefix(UPLOADS_PATH) for url in urls]
    except ValueError:
        raise HTTPException(400, "Upload-Concat has an invalid URL.") from None
