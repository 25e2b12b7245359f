"""`get`: downloads files, and directories with everything below them."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote, urlsplit

import httpx

from noria.transfer import parsers, redirects, response_body
from noria.transfer.destination import PipeDestination
from noria.transfer.download import DIRECTORY_MESSAGE, Download
from noria.transfer.errors import TransferError
from noria.transfer.http_client import Client
from noria.transfer.options import TransferOptions
from noria.transfer.parsers import is_directory_url, redact_url, same_origin, url_file_name
from noria.transfer.progress import Outcome, ProgressReporter
from noria.transfer.retry import with_retries
from noria.transfer.session import (
    TRANSFER_ERRORS,
    Transfer,
    describe_error,
    open_client,
    run_transfers,
)
from noria.transfer.status_errors import raise_for_status, raise_if_retryable

MAX_ENTRIES = 500_000  # of all listings of one run: a waiting file takes about 1 KiB
MAX_DIRECTORIES = 100_000  # of one run
MAX_PATH_BYTES = 256 << 20  # of all URLs and paths of one run
MAX_DEPTH = 255  # levels below the directory that a URL names, as in noria serve files


@dataclass(frozen=True, slots=True)
class FileToGet:
    url: str
    target: Path


@dataclass
class ListingTotals:
    """The totals of all listings of one run."""

    entries: int = 0
    directories: int = 0
    path_bytes: int = 0

    def add(self, url: str, directory: Path, entries: list[parsers.Entry]) -> None:
        """Count a directory and its entries. Raises TransferError above the limits of one run."""
        self.entries += len(entries)
        self.directories += 1
        self.path_bytes += len(entries) * (len(url) + len(str(directory)))
        # At most three characters in the URL for each byte of a name, and one in the local path.
        self.path_bytes += sum(4 * len(entry.name) for entry in entries)
        for count, limit, what in (
            (self.entries, MAX_ENTRIES, "entries"),
            (self.directories, MAX_DIRECTORIES, "directories"),
            (self.path_bytes, MAX_PATH_BYTES, "bytes of paths"),
        ):
            if count > limit:
                raise TransferError(f"more than {limit:,} {what} in one run; the rest is skipped: "
                              "fetch its directories separately")  # fmt: skip


async def get(
    urls: list[str],
    output: Path,
    options: TransferOptions,
    *,
    recursive: bool = False,
    new_reporter: Callable[[str], ProgressReporter] = lambda _: ProgressReporter(),
) -> list[Outcome]:
    """Download each URL into the directory `output`, or a single one to the file `output`.

    A URL is a directory if its path ends in "/", or if the server redirects it to the same path
    with a final "/". With `recursive`, everything below it is downloaded. A URL with a query is
    never a directory. `new_reporter` is called with the name of each file. Errors are in the
    outcomes.
    """
    async with open_client(options) as http:
        files: list[FileToGet] = []
        directories: set[Path] = set()
        failed: list[Outcome] = []
        totals = ListingTotals()
        for url in urls:
            name = redact_url(url)
            try:
                parsers.require_url(url)
                last = _usable_file_name(url)
                name = last or name
                directory = url if is_directory_url(url) else ""
                if recursive and not directory:
                    directory = await _find_directory(http, url, options, new_reporter(name))
                if directory and not recursive:
                    raise TransferError(DIRECTORY_MESSAGE)
                if directory:
                    tree = await _list_tree(
                        http, directory, output, options, failed, totals, new_reporter
                    )
                    files += tree[0]
                    directories.update(tree[1])
                else:
                    files.append(FileToGet(url, _choose_target(output, last, len(urls))))
            except TRANSFER_ERRORS as error:
                failed.append(Outcome(name, redact_url(url), "failed", error=describe_error(error)))
        # A part file must not have the name of a directory or of another file.
        reserved = frozenset(
            os.path.abspath(path) for path in directories.union(file.target for file in files)
        )
        transfers = (_transfer(http, options, file, reserved, new_reporter) for file in files)
        return failed + await run_transfers(transfers, options.jobs)


async def get_to_pipe(
    url: str,
    file: BinaryIO,
    options: TransferOptions,
    new_reporter: Callable[[str], ProgressReporter] = lambda _: ProgressReporter(),
) -> list[Outcome]:
    """Download one file to an open binary file that cannot seek.

    Raises BrokenPipeError if its reader is gone.
    """
    broken: list[BrokenPipeError] = []
    async with open_client(options) as http:

        async def transfer(outcome: Outcome, reporter: ProgressReporter) -> None:
            parsers.require_url(url)
            try:
                download = Download(http, options, outcome, reporter, url)
                await download.to_pipe(PipeDestination(file))
            except BrokenPipeError as error:  # of the pipe: httpx wraps those of connections
                broken.append(error)
                raise

        name = url.rpartition("/")[2] or redact_url(url)
        outcomes = await run_transfers(
            [(Outcome(name, redact_url(url)), new_reporter(name), transfer)], 1
        )
    if broken:
        raise broken[0]
    return outcomes


def _transfer(
    http: Client,
    options: TransferOptions,
    file: FileToGet,
    reserved: frozenset[str],
    new_reporter: Callable[[str], ProgressReporter],
) -> Transfer:
    async def transfer(outcome: Outcome, reporter: ProgressReporter) -> None:
        download = Download(http, options, outcome, reporter, file.url)
        await download.to_file(file.target, reserved)

    outcome = Outcome(str(file.target), redact_url(file.url))
    return outcome, new_reporter(file.target.name), transfer


def _usable_file_name(url: str) -> str:
    """Return the file name at the end of a URL; "" if there is none, or it is unusable."""
    try:
        return url_file_name(url)
    except TransferError:
        return ""


def _choose_target(output: Path, name: str, count: int) -> Path:
    """Return `output/name` if `output` is a directory, otherwise `output`, like cp(1)."""
    if os.path.isdir(output) or count > 1:
        if not os.path.isdir(output):
            raise TransferError(f"{output} is not a directory, which several files need")
        if not name:
            raise TransferError("the URL does not end in a usable file name; -o FILE gives one")
        return output / name
    return output


async def _list_tree(
    http: Client,
    url: str,
    output: Path,
    options: TransferOptions,
    failed: list[Outcome],
    totals: ListingTotals,
    new_reporter: Callable[[str], ProgressReporter],
) -> tuple[list[FileToGet], list[Path]]:
    """Return all files below the directory at `url`, and the local directories, which are created.

    A directory that cannot be listed or created is skipped and added to `failed`; for unusable
    entries, one outcome for each directory is added.
    """
    files: list[FileToGet] = []
    directories: list[Path] = []
    path = urlsplit(url).path or "/"
    url = urlsplit(url)._replace(path=path, query="", fragment="").geturl()
    name = url_file_name(url.rstrip("/")) if path.strip("/") else ""
    waiting = [(url, output / name, 0)]
    while waiting:
        url, directory, depth = waiting.pop()
        try:
            reporter = new_reporter(directory.name or redact_url(url))
            entries = await _list_directory(http, url, options, reporter)
            directory.mkdir(parents=True, exist_ok=True)
            directories.append(directory)
        except TRANSFER_ERRORS as error:
            failed.append(_failed(url, describe_error(error)))
            continue
        try:
            totals.add(url, directory, entries)
        except TransferError as error:
            failed.append(_failed(url, str(error)))
            break
        errors = [entry.error for entry in entries if entry.error]
        for entry in entries:
            entry_url = url + quote(entry.name, safe="")
            if entry.error:
                continue
            if not entry.is_directory:
                files.append(FileToGet(entry_url, directory / entry.local))
            elif depth < MAX_DEPTH:
                waiting.append((f"{entry_url}/", directory / entry.local, depth + 1))
            else:
                errors.append(f"directories are nested more than {MAX_DEPTH} deep: skipped")
        if errors:
            more = f" (and {len(errors) - 1:,} more entries)" if len(errors) > 1 else ""
            failed.append(_failed(url, errors[0] + more))
    return files, directories


def _failed(url: str, error: str) -> Outcome:
    return Outcome(redact_url(url), redact_url(url), "failed", error=error)


async def _find_directory(
    http: Client, url: str, options: TransferOptions, reporter: ProgressReporter
) -> str:
    """Return the URL of the directory to which the server redirects `url`, or "".

    Raises TransferError if it is on another host, which would get the login with each request.
    """
    if urlsplit(url).query:
        return ""

    async def attempt() -> httpx.Response:
        response = await http.head(url, follow_redirects=True)
        await raise_if_retryable(response)
        return response

    response = await with_retries(attempt, options.retries, report=reporter.message)
    if not redirects.leads_to_directory(response):
        return ""
    target = urlsplit(str(response.url))
    if not same_origin(url, target.geturl()):
        raise TransferError(
            f"it is a directory on another host: fetch {redact_url(target.geturl())}"
        )
    return urlsplit(url)._replace(path=target.path).geturl()


async def _list_directory(
    http: Client, url: str, options: TransferOptions, reporter: ProgressReporter
) -> list[parsers.Entry]:
    """Return the entries of a directory, from its listing as JSON."""

    async def attempt() -> list[parsers.Entry]:
        async with http.stream("GET", url, headers={"accept": "application/json"}) as response:
            await raise_for_status(response, 200)
            return parsers.parse_listing(
                await response_body.read_listing(response, response_body.MAX_LISTING_BYTES)
            )

    return await with_retries(attempt, options.retries, report=reporter.message)
