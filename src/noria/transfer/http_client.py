"""httpx's client, with bounds on the time and the memory that a server can use."""

from __future__ import annotations

import asyncio
from http.cookiejar import CookieJar
from typing import Any

import httpx

from noria.transfer import parsers, response_body
from noria.transfer.errors import BadResponse

MAX_REDIRECTS = 20


class NoCookies(CookieJar):
    """Stores no cookies: http.cookiejar fails on some malformed ones."""

    def extract_cookies(self, response: Any, request: Any) -> None:
        """Do nothing."""


class Client(httpx.AsyncClient):
    """An httpx.AsyncClient whose responses are bounded.

    The head must be complete `timeout` seconds after the request was sent, even if bytes of it
    arrive all the time. Redirects are checked before they are followed. A response that is not
    streamed must be complete within `timeout` seconds after its head, and only the first
    response_body.MAX_MESSAGE_BYTES are kept.
    """

    def __init__(self, timeout: float, **options: Any) -> None:
        super().__init__(
            timeout=timeout,
            event_hooks={"response": [parsers.check_redirect]},
            cookies=NoCookies(),
            **options,
        )
        self.timeout_seconds = timeout

    async def send(
        self, request: httpx.Request, *, stream: bool = False, **options: Any
    ) -> httpx.Response:
        """Send a request. Raises BadResponse, httpx.HTTPError."""
        follow = options.pop("follow_redirects", None) is True
        history: list[httpx.Response] = []
        while True:
            response = await self._send_for_head(request, options)
            response.history = list(history)
            if not follow or response.next_request is None:
                break
            await response.aclose()
            if len(history) == MAX_REDIRECTS:
                raise BadResponse(f"the server redirects more than {MAX_REDIRECTS} times")
            history.append(response)
            request = response.next_request
            # httpx has kept or removed the login, depending on the new URL; do not add it again.
            options["auth"] = httpx.Auth()
        return response if stream else await self._read_message(response)

    async def _send_for_head(
        self, request: httpx.Request, options: dict[str, Any]
    ) -> httpx.Response:
        """Return the response without its body. Raises ReadTimeout if the head is late."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(None) as deadline:

                async def trace(event: str, _: Any) -> None:
                    if deadline.expired():
                        return
                    if event.endswith("receive_response_headers.started"):
                        deadline.reschedule(loop.time() + self.timeout_seconds)
                    elif event.endswith("receive_response_headers.complete"):
                        deadline.reschedule(None)

                request.extensions = {**request.extensions, "trace": trace}
                return await super().send(request, stream=True, follow_redirects=False, **options)
        except TimeoutError:
            raise httpx.ReadTimeout("no answer in time", request=request) from None

    async def _read_message(self, response: httpx.Response) -> httpx.Response:
        """Return the response with the beginning of its body."""
        try:
            async with asyncio.timeout(self.timeout_seconds):
                body = await response_body.read_start(response, response_body.MAX_MESSAGE_BYTES)
        except BadResponse:  # it cannot be decompressed, but the status is known
            body = b""
        except TimeoutError:
            raise httpx.ReadTimeout("no answer in time", request=response.request) from None
        finally:
            await response.aclose()
        headers = [each for each in response.headers.raw if each[0].lower() != b"content-encoding"]
        message = httpx.Response(
            response.status_code,
            headers=headers,
            content=body,
            request=response.request,
            history=response.history,
            extensions=response.extensions,
        )
        message.next_request = response.next_request
        return message
