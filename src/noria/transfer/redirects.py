"""Redirects to a directory."""

from __future__ import annotations

from itertools import pairwise

import httpx


def leads_to_directory(response: httpx.Response) -> bool:
    """Whether the server redirected from a path to the same path with a final "/".

    The last redirect counts even if it was not followed.
    """
    urls = [each.url for each in (*response.history, response)]
    if response.next_request is not None:
        urls.append(response.next_request.url)
    if len(urls) < 2 or urls[-1].query:
        return False
    paths = [_raw_path(url) for url in urls]
    return paths[-1].endswith("/") and any(
        after == f"{before}/" for before, after in pairwise(paths)
    )


def _raw_path(url: httpx.URL) -> str:
    """Return the encoded path, without the query."""
    return url.raw_path.partition(b"?")[0].decode("ascii")
