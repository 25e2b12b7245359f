"""The HTTP client of transfers: httpx, with bounds on time and memory that a server can take."""

from __future__ import annotations

import asyncio
from http.cookiejar import CookieJar
from typing import Any

import httpx

from noria.transfer import parsers, response_body
from noria.transfer.errors import BadResponse

MAX_REDIRECTS = 20


class NoCookies(CookieJar):
    """Keeps none: http.cookiejar cannot be trusted with what a hostile server sends."""

    def extract_cookies(self, response: Any, request: Any) -> None:
        """Leaves all out."""


class Client(httpx.AsyncClient):
    """Each response is bounded.

    Its head must be there `seconds` after the request was sent, however slowly bytes of it come.
    Redirects are checked before they are followed. Of a response that is not streamed,
    response_body.MAX_MESSAGE_BYTES are kept, and all of it must be there within `seconds` too.
    """

    def __init__(self, seconds: float, **options: Any) -> None:
        super().__init__(
            timeout=seconds,
            event_hooks={"response": [parsers.check_redirect]},
            cookies=NoCookies(),
            **options,
        )
        self.seconds = seconds

    async def send(
        self, request: httpx.Request, *, stream: bool = False, **options: Any
    ) -> httpx.Response:
        """Sends a request. Raises BadResponse, httpx.HTTPError."""
        follow = options.pop("follow_redirects", None) is True
        history: list[httpx.Response] = []
        while True:
            response = await self._head(request, options)
            response.history = list(history)
            if not follow or response.next_request is None:
                break
            await response.aclose()
            if len(history) == MAX_REDIRECTS:
                raise BadResponse(f"the server redirects more than {MAX_REDIRECTS} times")
            history.append(response)
            request = response.next_request
            # httpx has kept or removed the login as the new URL wants; it must not be added again.
            options["auth"] = httpx.Auth()
        return response if stream else await self._message(response)

    async def _head(self, request: httpx.Request, options: dict[str, Any]) -> httpx.Response:
        """The response without its body. Raises ReadTimeout if the head is not there in time."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(None) as deadline:

                async def trace(event: str, _: Any) -> None:
                    if deadline.expired():
                        return
                    if event.endswith("receive_response_headers.started"):
                        deadline.reschedule(loop.time() + self.seconds)
                    elif event.endswith("receive_response_headers.complete"):
                        deadline.reschedule(None)

                request.extensions = {**request.extensions, "trace": trace}
                return await super().send(request, stream=True, follow_redirects=False, **options)
        except TimeoutError:
            raise httpx.ReadTimeout("no answer in time", request=request) from None

    async def _message(self, response: httpx.Response) -> httpx.Response:
        """The response with the beginning of its body."""
        try:
            async with asyncio.timeout(self.seconds):
                body = await response_body.read_start(response, response_body.MAX_MESSAGE_BYTES)
        except BadResponse:  # it cannot be decompressed; the status says enough
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
