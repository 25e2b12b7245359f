"""The live page of `noria top --web`: its token, its headers, and what it shows."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
from urllib.parse import urlsplit

import pytest

pytest.importorskip("httptools")

from noria.sight.report.live import LivePage
from noria.sight.top.session import Session
from noria.sight.top.web import serving
from support.observations import ScriptedSource


async def get(port: int, path: str, method: str = "GET") -> tuple[int, str, str]:
    """Return the status, the head and the body of a response."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    request = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n"
    writer.write(request.encode())
    head, _, body = (await reader.read()).decode().partition("\r\n\r\n")
    writer.close()
    return int(head.split()[1]), head, body


def test_the_page_needs_the_token():
    async def main() -> None:
        page = LivePage(Session(ScriptedSource(), 3600.0))
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
        page = LivePage(session)
        async with serving(page, "127.0.0.1", 0) as address:
            url = urlsplit(address)
            before = json.loads((await get(url.port, url.path + "data"))[2])
            assert (before["loops"], before["ended"]) == ([], False)
            page.start()
            found: dict = before
            while not found["loops"]:
                found = json.loads((await get(url.port, url.path + "data"))[2])
            assert (found["pid"], found["answering"]) == (4711, True)
            loop = found["loops"][0]
            assert any("192.0.2.5:50185" in each["peer"] for each in loop["connections"])
            assert len(loop["timeline"]["busy"]) > 0
            assert found["findings"]
            source.error, source.has_ended = ConnectionResetError(104, "reset"), True
            while not found["ended"]:
                found = json.loads((await get(url.port, url.path + "data"))[2])
            assert found["loops"]  # the last figures stay
            # Names come from the program: none of them can end the script element.
            page_text = (await get(url.port, url.path))[2]
            assert "_chain_future.<" not in page_text
        page.close()

    asyncio.run(asyncio.wait_for(main(), 20))
    assert source.closed
