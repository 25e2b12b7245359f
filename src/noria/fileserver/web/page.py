"""The HTML page of a directory. It works without scripts; with them it does more.

It loads nothing from other hosts and has no inline scripts or styles, so that a strict
Content-Security-Policy is possible: ``default-src 'self'``.
"""

from __future__ import annotations

import unicodedata
from datetime import UTC, datetime
from functools import cache
from importlib.resources import files
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, StrictUndefined, Template

from noria.http.head import REASON_PHRASES

UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB", "PiB")

# Files with these endings show themselves in the list instead of an icon, if they are this small at
# most. SVG is not one of them: it is sent as an attachment.
PREVIEWED = (".avif", ".gif", ".jpeg", ".jpg", ".png", ".webp")
MAX_PREVIEW_BYTES = 64 << 10

# Characters that change the direction of text: with them "gpj.exe" can look like "exe.jpg" (UAX 9).
BIDI_CONTROLS = frozenset(
    "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
)


def page(listing: dict[str, Any], *, uploads: bool) -> bytes:
    """The HTML page of a listing.

    The listing is {"path", "writable", "entries": [{"name", "type", "size", "modified"}]}, with
    sizes in bytes and times in seconds since the epoch. The page can upload and change files if
    `uploads` is true and the listing is writable.
    """
    entries = [_entry_row(entry) for entry in listing["entries"]]
    entries.sort(key=lambda row: (not row["directory"], row["name"].casefold(), row["name"]))
    path = listing["path"]
    html = _template("page").render(
        path=path,
        href=quote_path(path),
        title=visible(path),
        crumbs=crumbs(path),
        entries=entries,
        total=format_size(sum(row["size"] for row in entries)),
        writable=bool(uploads and listing["writable"]),
    )
    return html.encode("utf-8", "replace")


def form_error_page(message: str) -> bytes:
    """The page for a rejected form, with a link back to its directory."""
    return _error_page("The upload failed", message, "./", "Back")


def status_page(status: int, message: str, directory: str) -> bytes:
    """The page for an error of GET, with a link to the decoded path `directory`."""
    title = f"{status} {REASON_PHRASES.get(status, '')}"
    return _error_page(title, message, quote_path(directory), f"To {visible(directory)}")


def _error_page(title: str, message: str, href: str, link: str) -> bytes:
    html = _template("error").render(title=title, message=visible(message), href=href, link=link)
    return html.encode("utf-8", "replace")


@cache
def _template(name: str) -> Template:
    text = files("noria.fileserver.web").joinpath(f"{name}.html.j2").read_text("utf-8")
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(text)


def _entry_row(entry: dict[str, Any]) -> dict[str, Any]:
    directory = entry["type"] == "directory"
    bytes_ = 0 if directory else int(entry["size"])
    # "./", because a name with a colon would be parsed as a scheme (RFC 3986, 4.2).
    href = f"./{quote_path(entry['name'])}{'/' if directory else ''}"
    modified = float(entry["modified"])
    previewed = 0 < bytes_ <= MAX_PREVIEW_BYTES and entry["name"].lower().endswith(PREVIEWED)
    return {
        "name": entry["name"],
        "shown": visible(entry["name"]),
        "href": href,
        # With the time, because a browser loads each URL of an image once for a page.
        "preview": f"{href}?modified={modified}" if previewed else "",
        "directory": directory,
        "size": bytes_,
        "readable": format_size(bytes_),
        "modified": modified,
        "iso": format_time(entry["modified"], "%Y-%m-%dT%H:%M:%SZ"),
        "date": format_time(entry["modified"], "%Y-%m-%d %H:%M UTC"),
    }


def crumbs(path: str) -> list[tuple[str, str]]:
    """(name, URL path) of each directory from the root to this one; the root's name is ""."""
    found, href = [("", "/")], "/"
    for name in path.strip("/").split("/"):
        if name:
            href += f"{quote_path(name)}/"
            found.append((visible(name), href))
    return found


def quote_path(path: str) -> str:
    """Encode a path for a URL, byte by byte, except "/"."""
    return quote(path.encode("utf-8", "surrogateescape"), safe="/")


def visible(name: str) -> str:
    """The name with a replacement character for each control character."""
    return "".join("�" if _is_control(character) else character for character in name)


def _is_control(character: str) -> bool:
    return character in BIDI_CONTROLS or unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp")


def format_size(count: int) -> str:
    """A number of bytes for people, in powers of 1024."""
    if count < 1024:
        return "1 byte" if count == 1 else f"{count} bytes"
    number, unit = float(count), 0
    while number >= 1024 and unit < len(UNITS) - 1:
        number, unit = number / 1024, unit + 1
    return f"{number:.1f} {UNITS[unit]}"


def format_time(seconds: float, form: str) -> str:
    """A time since the epoch, in UTC; "" if it is out of range."""
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime(form)
    except (OverflowError, ValueError, OSError):
        return ""
