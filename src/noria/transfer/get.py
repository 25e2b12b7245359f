"""Fetching files and directories."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote, urlsplit

import httpx

from noria.transfer import parsers, redirects, response_body
from noria.transfer.download import DIRECTORY, Download
from noria.transfer.errors import Failure
from noria.transfer.http_client import Client
from noria.transfer.parsers import last_name, same_origin, shown
from noria.transfer.retry import check, later, persist
from noria.transfer.session import (
    ERRORS,
    Bar,
    Options,
    Outcome,
    all_of,
    connect,
    explained,
    is_directory,
)
from noria.transfer.sinks import Pipe

MAX_ENTRIES = 500_000  # of all listings of one run: a file that waits takes about 1 KiB
MAX_DIRECTORIES = 100_000  # of one run
MAX_PATH_BYTES = 256 << 20  # of all URLs and paths of one run
MAX_DEPTH = 255  # levels beneath the directory that a URL names, as noria serve files has them


@dataclass(frozen=True, slots=True)
class Wanted:
    url: str
    target: Path


@dataclass
class Listed:
    """What the listings of one run have had so far."""

    entries: int = 0
    directories: int = 0
    path_bytes: int = 0

    def add(self, url: str, place: Path, entries: list[parsers.Entry]) -> None:
        """Counts a directory and its entries. Raises Failure if that is too much for one run."""
        self.entries += len(entries)
        self.directories += 1
        self.path_bytes += len(entries) * (len(url) + len(str(place)))
        self.path_bytes += sum(4 * len(entry.name) for entry in entries)  # 3 where it is quoted
        for count, limit, what in (
            (self.entries, MAX_ENTRIES, "entries"),
            (self.directories, MAX_DIRECTORIES, "directories"),
            (self.path_bytes, MAX_PATH_BYTES, "bytes of paths"),
        ):
            if count > limit:
                raise Failure(f"more than {limit:,} {what} for one run; the rest is skipped: "
                              "fetch its directories separately")  # fmt: skip


async def get(
    urls: list[str],
    output: Path,
    options: Options,
    *,
    recursive: bool = False,
    bars: Callable[[str], Bar] = lambda _: Bar(),
) -> list[Outcome]:
    """Fetches each URL into the directory `output`, or the only one into the file `output`.

    A URL whose path ends in "/" is a directory, and so is one that the server sends from there to
    the same with "/"; with `recursive` all beneath it is fetched. One with a query is fetched as
    it is. What failed is among the outcomes.
    """
    async with connect(options) as http:
        wanted: list[Wanted] = []
        directories: set[Path] = set()  # no part may have the name of one, or of a file wanted
        failed: list[Outcome] = []
        listed = Listed()
        for url in urls:
            name = shown(url)
            try:
                parsers.require_url(url)
                last = _file_name(url)
                name = last or name
                directory = url if is_directory(url) else ""
                if recursive and not directory:
                    directory = await _directory(http, url, options, bars(name))
                if directory and not recursive:
                    raise Failure(DIRECTORY)
                if directory:
                    files, places = await _tree(
                        http, directory, output, options, failed, listed, bars
                    )
                    wanted += files
                    directories.update(places)
                else:
                    wanted.append(Wanted(url, _place(output, last, len(urls))))
            except ERRORS as error:
                failed.append(Outcome(name, shown(url), "failed", error=explained(error)))
        reserved = frozenset(
            os.path.abspath(path) for path in directories.union(one.target for one in wanted)
        )
        work = (_work(http, options, one, reserved, bars) for one in wanted)
        return failed + await all_of(work, options.jobs)


async def get_to_pipe(
    url: str, file: BinaryIO, options: Options, bars: Callable[[str], Bar] = lambda _: Bar()
) -> list[Outcome]:
    """Fetches one file onto an open binary file that cannot seek.

    Raises BrokenPipeError if nobody reads it any more.
    """
    gone: list[BrokenPipeError] = []
    async with connect(options) as http:

        async def do(outcome: Outcome, bar: Bar) -> None:
            parsers.require_url(url)
            try:
                await Download(http, options, outcome, bar, url).to_pipe(Pipe(file))
            except BrokenPipeError as error:  # no connection's: httpx has names of its own
                gone.append(error)
                raise

        name = url.rpartition("/")[2] or shown(url)
        outcomes = await all_of([(Outcome(name, shown(url)), bars(name), do)], 1)
    if gone:
        raise gone[0]
    return outcomes


def _work(
    http: Client,
    options: Options,
    one: Wanted,
    reserved: frozenset[str],
    bars: Callable[[str], Bar],
) -> tuple[Outcome, Bar, Any]:
    async def do(outcome: Outcome, bar: Bar) -> None:
        await Download(http, options, outcome, bar, one.url).to_file(one.target, reserved)

    return Outcome(str(one.target), shown(one.url)), bars(one.target.name), do


def _file_name(url: str) -> str:
    """The name that a URL gives its file; "" if it gives none, or none that can be used."""
    try:
        return last_name(url)
    except Failure:
        return ""


def _place(output: Path, name: str, count: int) -> Path:
    """Into a directory under its own name, or under the name given, as cp(1) has it."""
    if os.path.isdir(output) or count > 1:
        if not os.path.isdir(output):
            raise Failure(f"{output} is not a directory, and several files are to go there")
        if not name:
            raise Failure("the URL does not end in a usable file name; -o FILE gives one")
        return output / name
    return output


async def _tree(
    http: Client,
    url: str,
    output: Path,
    options: Options,
    failed: list[Outcome],
    listed: Listed,
    bars: Callable[[str], Bar],
) -> tuple[list[Wanted], list[Path]]:
    """All files beneath the directory at `url`, and the local directories, which are made.

    One that cannot be listed or made is skipped, and is among the `failed`; entries that cannot be
    used are there as one for each directory.
    """
    wanted: list[Wanted] = []
    places: list[Path] = []
    path = urlsplit(url).path or "/"
    url = urlsplit(url)._replace(path=path, query="", fragment="").geturl()
    name = last_name(url.rstrip("/")) if path.strip("/") else ""
    waiting = [(url, output / name, 0)]
    while waiting:
        url, place, depth = waiting.pop()
        try:
            entries = await _entries(http, url, options, bars(place.name or shown(url)))
            place.mkdir(parents=True, exist_ok=True)
            places.append(place)
        except ERRORS as error:
            failed.append(_failed(url, explained(error)))
            continue
        try:
            listed.add(url, place, entries)
        except Failure as error:
            failed.append(_failed(url, str(error)))
            break
        problems = [entry.problem for entry in entries if entry.problem]
        for entry in entries:
            inside = url + quote(entry.name, safe="")
            if entry.problem:
                continue
            if not entry.is_directory:
                wanted.append(Wanted(inside, place / entry.local))
            elif depth < MAX_DEPTH:
                waiting.append((f"{inside}/", place / entry.local, depth + 1))
            else:
                problems.append(f"directories are nested more than {MAX_DEPTH} deep: skipped")
        if problems:
            more = f" (and {len(problems) - 1:,} more entries)" if len(problems) > 1 else ""
            failed.append(_failed(url, problems[0] + more))
    return wanted, places


def _failed(url: str, error: str) -> Outcome:
    return Outcome(shown(url), shown(url), "failed", error=error)


async def _directory(http: Client, url: str, options: Options, bar: Bar) -> str:
    """The URL of the directory that the server says is at `url`, or "".

    Raises Failure if it is on another host: logins would go there with every further request.
    """
    if urlsplit(url).query:
        return ""

    async def attempt() -> httpx.Response:
        response = await http.head(url, follow_redirects=True)
        await later(response)
        return response

    response = await persist(attempt, options.retries, tell=bar.note)
    if not redirects.to_directory(response):
        return ""
    there = urlsplit(str(response.url))
    if not same_origin(url, there.geturl()):
        raise Failure(f"it is a directory on another host: fetch {shown(there.geturl())}")
    return urlsplit(url)._replace(path=there.path).geturl()


async def _entries(http: Client, url: str, options: Options, bar: Bar) -> list[parsers.Entry]:
    """The entries of a directory by its listing as JSON."""

    async def attempt() -> list[parsers.Entry]:
        async with http.stream("GET", url, headers={"accept": "application/json"}) as response:
            await check(response, 200)
            return parsers.listing(
                await response_body.read_listing(response, response_body.MAX_LISTING_BYTES)
            )

    return await persist(attempt, options.retries, tell=bar.note)
