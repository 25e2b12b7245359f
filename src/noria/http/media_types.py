"""Media types by file name, types that browsers execute, and Content-Disposition."""

from __future__ import annotations

import mimetypes
from functools import lru_cache
from urllib.parse import quote

# Python's own table, without the files of the system: the same on every machine.
_TYPES = mimetypes.MimeTypes()
for _suffix, _kind in {
    ".md": "text/markdown",
    ".log": "text/plain",
    ".webp": "image/webp",
    ".woff2": "font/woff2",
    ".wasm": "application/wasm",
    ".mjs": "text/javascript",
    ".xhtml": "application/xhtml+xml",
    ".atom": "application/atom+xml",
    ".rss": "application/rss+xml",
    ".js": "text/javascript",
}.items():
    _TYPES.add_type(_kind, _suffix)

_COMPRESSED_TYPES = {
    "gzip": "application/gzip",
    "bzip2": "application/x-bzip2",
    "xz": "application/x-xz",
    "compress": "application/x-compress",
}

# Types that a browser may execute in the origin of the server.
_ACTIVE_TYPES = {
    "text/html",
    "text/xml",
    "text/xsl",
    "text/javascript",
    "text/ecmascript",
    "text/vbscript",
    "text/x-component",
    "text/cache-manifest",
    "application/xml",
    "application/javascript",
    "application/x-javascript",
    "application/ecmascript",
    "application/wasm",
    "application/x-shockwave-flash",
    "application/hta",
    "message/rfc822",
    "multipart/related",
    "multipart/x-mixed-replace",
}
_ACTIVE_SUFFIXES = (".mht", ".mhtml", ".shtml", ".hta", ".htc", ".swf", ".xht", ".xslt", ".svgz")


@lru_cache(4096)
def guess_media_type(name: str) -> str:
    """The media type for a file name; text types get the charset UTF-8."""
    kind, coding = _TYPES.guess_type("./" + name)
    if coding is not None:
        return _COMPRESSED_TYPES.get(coding, "application/octet-stream")
    if kind is None:
        return "application/octet-stream"
    return f"{kind}; charset=utf-8" if kind.startswith("text/") else kind


def is_active(name: str, kind: str) -> bool:
    """Whether a browser might execute the file `name` of media type `kind`."""
    kind = kind.partition(";")[0]
    return kind in _ACTIVE_TYPES or kind.endswith("+xml") or name.lower().endswith(_ACTIVE_SUFFIXES)


def attachment_disposition(name: str) -> str:
    """A Content-Disposition with which a browser saves as `name` (RFC 6266, RFC 8187)."""
    plain = "".join(c if " " <= c <= "~" and c not in '"\\%' else "_" for c in name)
    if plain == name:
        return f'attachment; filename="{name}"'
    extended = quote(name, safe="!#$&+-.^_`|~")
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{extended}"
