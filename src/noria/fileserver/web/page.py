"""The page of a directory: it works as plain HTML, and its scripts make it do more.

It asks nothing of other hosts, and has neither scripts nor styles within it, so that the strictest
Content-Security-Policy fits: ``default-src 'self'``.
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

# They turn the writing round, so that "gpj.exe" can be shown as "exe.jpg" (UAX 9).
BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def page(listing: dict[str, Any], *, uploads: bool) -> bytes:
    """The HTML of a listing: {"path", "writable", "entries": [{"name", "type", "size",
    "modified"}]}, sizes in bytes and times in seconds since the epoch.

    With `uploads`, and if the listing is writable, it has what sends and changes files.
    """
    entries = [_row(entry) for entry in listing["entries"]]
    entries.sort(key=lambda row: (not row["directory"], row["name"].casefold(), row["name"]))
    path = listing["path"]
    html = _template("page").render(
        path=path,
        href=quoted(path),
        title=visible(path),
        crumbs=crumbs(path),
        entries=entries,
        total=size(sum(row["size"] for row in entries)),
        writable=bool(uploads and listing["writable"]),
    )
    return html.encode("utf-8", "replace")


def trouble(sentence: str) -> bytes:
    """The HTML that says why a form was refused, with the way back to its directory."""
    return _problem("That was refused", sentence, "./", "Back")


def missed(status: int, sentence: str, directory: str) -> bytes:
    """The HTML that says why there is nothing to see, with a link to the decoded `directory`."""
    title = f"{status} {REASON_PHRASES.get(status, '')}"
    return _problem(title, sentence, quoted(directory), f"To {visible(directory)}")


def _problem(title: str, sentence: str, href: str, link: str) -> bytes:
    html = _template("problem").render(
        title=title, sentence=visible(sentence), href=href, link=link
    )
    return html.encode("utf-8", "replace")


@cache
def _template(name: str) -> Template:
    text = files("noria.fileserver.web").joinpath(f"{name}.html.j2").read_text("utf-8")
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(text)


def _row(entry: dict[str, Any]) -> dict[str, Any]:
    directory = entry["type"] == "directory"
    bytes_ = 0 if directory else int(entry["size"])
    return {
        "name": entry["name"],
        "shown": visible(entry["name"]),
        # "./" because a name with a colon in it would be taken for a scheme (RFC 3986, 4.2)
        "href": f"./{quoted(entry['name'])}{'/' if directory else ''}",
        "directory": directory,
        "size": bytes_,
        "readable": size(bytes_),
        "modified": float(entry["modified"]),
        "iso": moment(entry["modified"], "%Y-%m-%dT%H:%M:%SZ"),
        "date": moment(entry["modified"], "%Y-%m-%d %H:%M UTC"),
    }


def crumbs(path: str) -> list[tuple[str, str]]:
    """(name, URL path) of each directory from the root to this one; the root's name is ""."""
    found, href = [("", "/")], "/"
    for name in path.strip("/").split("/"):
        if name:
            href += f"{quoted(name)}/"
            found.append((visible(name), href))
    return found


def quoted(path: str) -> str:
    """For a URL, byte for byte; "/" stays."""
    return quote(path.encode("utf-8", "surrogateescape"), safe="/")


def visible(name: str) -> str:
    """The name with a sign in place of what cannot be seen, or would move its neighbours."""
    return "".join("�" if _hidden(character) else character for character in name)


def _hidden(character: str) -> bool:
    return character in BIDI or unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp")


def size(count: int) -> str:
    """Bytes as people read them."""
    if count < 1024:
        return "1 byte" if count == 1 else f"{count} bytes"
    number, unit = float(count), 0
    while number >= 1024 and unit < len(UNITS) - 1:
        number, unit = number / 1024, unit + 1
    return f"{number:.1f} {UNITS[unit]}"


def moment(seconds: float, form: str) -> str:
    """Seconds since the epoch, in UTC; "" for a time that no calendar has."""
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime(form)
    except (OverflowError, ValueError, OSError):
        return ""
