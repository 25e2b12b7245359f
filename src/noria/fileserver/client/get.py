"""Fetching files and directories."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote, urlsplit

import httpx

from noria.fileserver.client.download import Download
from noria.fileserver.client.session import (
    Bar,
    Options,
    Outcome,
    all_of,
    check_name,
    connect,
    last_name,
    shown,
)
from noria.fileserver.client.sinks import Pipe
from noria.fileserver.client.trouble import Failure, check, persist


@dataclass(frozen=True)
class Wanted:
    url: str
    target: Path


async def get(
    urls: list[str],
    output: Path,
    options: Options,
    *,
    recursive: bool = False,
    bars: Callable[[str], Bar] = lambda _: Bar(),
) -> list[Outcome]:
    """Fetches each URL into the directory `output`, or the only one into the file `output`.

    With `recursive`, a URL that ends in "/" is a directory, and all beneath it is fetched. What
    failed is among the outcomes.
    """
    async with connect(options) as http:
        wanted: list[Wanted] = []
        failed: list[Outcome] = []
        for url in urls:
            name = url
            try:
                name = last_name(url) or name
                if url.partition("?")[0].endswith("/"):
                    if not recursive:
                        raise Failure("it is a directory: -r fetches all that is in it")
                    wanted += await _tree(http, url, output, options, failed)
                else:
                    wanted.append(Wanted(url, _place(output, last_name(url), len(urls))))
            except (Failure, OSError) as error:
                failed.append(Outcome(name, shown(url), "failed", error=str(error)))
        return failed + await all_of(
            [_work(http, options, one, bars) for one in wanted], options.jobs
        )


async def get_to_pipe(
    url: str, file: BinaryIO, options: Options, bars: Callable[[str], Bar] = lambda _: Bar()
) -> list[Outcome]:
    """Fetches one file onto an open binary file that cannot seek."""
    async with connect(options) as http:

        async def do(outcome: Outcome, bar: Bar) -> None:
            await Download(http, options, outcome, bar, url).to_pipe(Pipe(file))

        name = url.rpartition("/")[2] or url
        return await all_of([(Outcome(name, shown(url)), bars(name), do)], 1)


def _work(
    http: httpx.AsyncClient, options: Options, one: Wanted, bars: Callable[[str], Bar]
) -> tuple[Outcome, Bar, Any]:
    async def do(outcome: Outcome, bar: Bar) -> None:
        await Download(http, options, outcome, bar, one.url).to_file(one.target)

    return Outcome(str(one.target), shown(one.url)), bars(one.target.name), do


def _place(output: Path, name: str, count: int) -> Path:
    """Into a directory under its own name, or under the name given, as cp(1) has it."""
    if output.is_dir() or count > 1:
        if not output.is_dir():
            raise Failure(f"{output} is not a directory, and several files are to go there")
        return output / name
    return output


async def _tree(
    http: httpx.AsyncClient, url: str, output: Path, options: Options, failed: list[Outcome]
) -> list[Wanted]:
    """All files beneath the directory at `url`; the directories are made."""
    wanted: list[Wanted] = []
    name = last_name(url.rstrip("/")) if urlsplit(url).path.strip("/") else ""
    waiting = [(url, output / name)]
    while waiting:
        url, place = waiting.pop()
        place.mkdir(parents=True, exist_ok=True)
        for entry in await _entries(http, url, options):
            try:
                name = str(entry["name"])
                check_name(name)
            except (Failure, KeyError, TypeError) as error:
                failed.append(Outcome(shown(url), shown(url), "failed", error=str(error)))
                continue
            inside = url + quote(os.fsencode(name), safe="")
            if entry.get("type") == "directory":
                waiting.append((f"{inside}/", place / name))
            else:
                wanted.append(Wanted(inside, place / name))
    return wanted


async def _entries(http: httpx.AsyncClient, url: str, options: Options) -> list[dict[str, Any]]:
    """The entries of a directory by its listing as JSON."""

    async def attempt() -> list[dict[str, Any]]:
        response = await http.get(url, headers={"accept": "application/json"})
        await check(response, 200)
        try:
            entries = response.json()["entries"]
        except (ValueError, KeyError, TypeError):
            entries = None
        if not isinstance(entries, list):
            raise Failure("the server gives no listing as JSON; is it noria serve files?")
        return entries

    return await persist(attempt, options.retries)
