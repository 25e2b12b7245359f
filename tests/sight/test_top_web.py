"""The live page of `noria top --web`: who may see it, and what it shows."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
from urllib.parse import urlsplit

import pytest

pytest.importorskip("httptools")

from noria.sight.top.session import Session
from noria.sight.top.web import serving
from noria.sight.top.web_page import TextPage
from support.observations import ScriptedSource


async def get(port: int, path: str, method: str = "GET") -> tuple[int, str, str]:
    """Return the status, the head and the body of a response."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    request = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n"
    writer.write(request.encode())
    head, _, body = (await reader.read()).decode().partition("\r\n\r\n")
    writer.close()
    return int(head.split()[1]), head, body


def test_only_those_who_know_the_token_see_the_page():
    async def main() -> None:
        page = TextPage(Session(ScriptedSource(), 3600.0))
        async with serving(page, "127.0.0.1", 0) as address:
            url = urlsplit(address)
            token = url.path.strip("/")
            assert len(token) >= 20
            for path in ("/", "/data", f"/{token[:-1]}/", f"/x{token}/data", "/favicon.ico"):
                assert (await get(url.port, path))[0] == 404
            assert (await get(url.port, url.path + "other"))[0] == 404
            assert (await get(url.port, url.path, "POST"))[0] == 405
            status, head, _ = await get(url.port, f"/{token}")
            assert (status, f"Location: {url.path}" in head) == (308, True)

            status, head, body = await get(url.port, url.path)
            assert status == 200
            assert "Referrer-Policy: no-referrer" in head
            # The policy allows just this script and this style.
            for kind in ("script", "style"):
                text = re.search(rf"<{kind}>(.*?)</{kind}>", body, re.DOTALL)[1]
                digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
                assert f"{kind}-src 'sha256-{digest}'" in head
            assert "http" not in body.replace(address, "")  # it loads nothing from elsewhere

    asyncio.run(main())


def test_the_page_gets_new_figures():
    source = ScriptedSource()
    session = Session(source, 0.05)

    async def main() -> None:
        page = TextPage(session)
        async with serving(page, "127.0.0.1", 0) as address:
            url = urlsplit(address)
            before = json.loads((await get(url.port, url.path + "data"))[2])
            assert (before["html"], before["state"]) == ("", "connecting")
            page.start()
            found: dict = {}
            while not found.get("html"):
                found = json.loads((await get(url.port, url.path + "data?width=90"))[2])
            assert found["pid"] == 4711
            assert found["well"]
            assert '<span class="bad"> 128KiB </span>' in found["html"]
            text = re.sub("<[^>]*>", "", found["html"])
            assert max(map(len, text.splitlines())) <= 90 + 10 * text.count("&")
            assert "_chain_future.<" not in found["html"]  # names are escaped
            source.error, source.has_ended = ConnectionResetError(104, "reset"), True
            while found["well"]:
                found = json.loads((await get(url.port, url.path + "data"))[2])
            assert found["state"] == "the process has ended"
            assert "192.0.2.5:50185" in found["html"]
        page.close()

    asyncio.run(main())
    assert source.closed
