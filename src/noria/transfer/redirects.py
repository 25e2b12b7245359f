"""Redirects that say: that is a directory."""

from __future__ import annotations

from itertools import pairwise

import httpx


def to_directory(response: httpx.Response) -> bool:
    """Whether the server sent from a path to the same with "/" after it, as for directories.

    It is seen in a redirect that was not followed too.
    """
    urls = [each.url for each in (*response.history, response)]
    if response.next_request is not None:
        urls.append(response.next_request.url)
    if len(urls) < 2 or urls[-1].query:
        return False
    paths = [_path(url) for url in urls]
    return paths[-1].endswith("/") and any(
        after == f"{before}/" for before, after in pairwise(paths)
    )


def _path(url: httpx.URL) -> str:
    """The path as it is sent, without the query."""
    return url.raw_path.partition(b"?")[0].decode("ascii")
