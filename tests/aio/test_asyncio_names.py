"""The table of asyncio's private names is complete and matches the running Python."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from pathlib import Path

import pytest

from noria.aio import asyncio_names
from noria.aio.asyncio_names_table import NAMES, PrivateName
from noria.aio.transports import SocketTransport
from support.loops import CERTIFICATE

SOURCES = Path(asyncio_names.__file__).parents[1]
TEXTS = {
    path.relative_to(SOURCES).as_posix(): path.read_text()
    for pattern in (
        *("aio/*.py", "_core/aio/*.pyx", "_core/*.pyx", "sight/snapshot_*.py"),
        *("sight/executors_seen.py", "sight/program_hooks.py"),
    )
    for path in sorted(SOURCES.glob(pattern))
    if path.name not in ("asyncio_names.py", "asyncio_names_table.py")
}

# (file, name): private names of noria that asyncio has too
OWN = {
    ("aio/sendfile.py", "_loop"),
    ("aio/sendfile.py", "_protocol"),
    ("aio/sendfile.py", "_transport"),
    ("sight/executors_seen.py", "_threads"),  # of ThreadPoolExecutor
}

# All methods of asyncio.Server are overridden, so the private names in this file are noria's.
OWN_FILES = {"aio/server.py"}

# methods of Core that the modules of noria.aio call on the loop; the table lists them for Core
CORE = {
    "_add_reader",
    "_add_writer",
    "_ensure_fd_no_transport",
    "_remove_reader",
    "_remove_writer",
}


def module_of(file: str) -> str:
    return "noria." + file.rpartition(".")[0].replace("/", ".")


def test_every_name_is_known_to_this_python() -> None:
    assert asyncio_names.unknown() == []


def test_a_name_is_in_the_table_once_for_each_use() -> None:
    keys = [(entry.owner, entry.name, entry.used_by) for entry in NAMES]
    assert len(keys) == len(set(keys))


@pytest.mark.parametrize("entry", NAMES, ids=lambda entry: f"{entry.owner}.{entry.name}")
def test_an_entry_is_complete_and_used(entry: PrivateName) -> None:
    assert entry.reason
    assert entry.fallback
    files = [file for file in TEXTS if module_of(file) in entry.used_by.split(", ")]
    assert len(files) == len(entry.used_by.split(", ")), "used_by names a module that is not there"
    word = re.compile(rf"\b{entry.name}\b")
    assert any(word.search(TEXTS[file]) for file in files), "noria no longer uses it"


def names_of_asyncio() -> set[str]:
    """All private names of asyncio: of the package's source and of the C module."""
    found: set[str] = set()
    for path in Path(asyncio.__file__).parent.glob("*.py"):
        found.update(re.findall(r"\b_[a-zA-Z]\w*", path.read_text()))
    import _asyncio

    for value in (_asyncio, *vars(_asyncio).values()):
        found.update(name for name in dir(value) if re.fullmatch(r"_[a-zA-Z]\w*", name))
    return found


def test_every_private_name_in_use_is_in_the_table() -> None:
    theirs = names_of_asyncio()
    listed = {(module, entry.name) for entry in NAMES for module in entry.used_by.split(", ")}
    missing = []
    for file, text in TEXTS.items():
        if file in OWN_FILES:
            continue
        for number, line in enumerate(text.splitlines(), 1):
            # An attribute, or its name in a string (getattr, __slots__).
            for name in re.findall(r"(?<=[.\"'])_[a-zA-Z]\w*", line.partition("#")[0]):
                if name not in theirs or name in CORE or line.startswith(("from", "import")):
                    continue
                if (file, name) in OWN:
                    continue
                if (module_of(file), name) not in listed:
                    missing.append(
                        f"{file}:{number} uses asyncio's {name}, which the table of names lacks"
                    )
    assert not missing, "\n".join(missing)


def test_the_version_up_to_which_nothing_is_checked_at_import_is_the_newest_tested() -> None:
    text = (SOURCES / "aio" / "__init__.py").read_text()
    assert f"if sys.version_info[:2] > {asyncio_names.NEWEST_TESTED}:" in text


def test_the_transports_have_the_private_names_that_asyncio_calls_on_them() -> None:
    """asyncio's sslproto, start_tls, sendfile and streams work over noria's transports."""
    package = Path(asyncio.__file__).parent
    used = set()
    for file in ("sslproto.py", "base_events.py", "streams.py"):
        text = (package / file).read_text()
        used.update(re.findall(r"\b_?(?:transport|transp)\._[a-z]\w*", text))
        used.update(re.findall(r"getattr\(transport, '(_[a-z]\w*)'", text))
    names = {name.rpartition(".")[2] for name in used}
    assert {"_force_close", "_loop", "_start_tls_compatible"} <= names
    # attributes of asyncio's transports for subprocesses and pipes
    names -= {"_wait", "_process_exited"}
    missing = [name for name in sorted(names) if not hasattr(SocketTransport, name)]
    assert not missing, (
        f"asyncio uses {', '.join(missing)} of a transport: noria's do not have them"
    )


# Simulates a later Python: executes asyncio's modules again with changed source.
LATER_PYTHON = r"""
import asyncio, asyncio.sslproto, asyncio.streams, inspect, ssl, sys, warnings

def rewrite(module, old, new):
    source = inspect.getsource(module)
    assert old in source, old
    exec(compile(source.replace(old, new), module.__file__, "exec"), module.__dict__)
    for name in module.__dict__.get("__all__", ()):
        setattr(asyncio, name, getattr(module, name))

class Version(tuple):
    major = property(lambda self: self[0])
    minor = property(lambda self: self[1])

def simulate_later_version():
    if not hasattr(asyncio.events, "_ThreadSafeHandle"):    # it came with Python 3.14
        asyncio.events._ThreadSafeHandle = asyncio.Handle
    sys.version_info = Version((3, 99, 0, "final", 0))
"""

ECHO = r"""
server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
server_context.load_cert_chain(certificate)
client_context = ssl.create_default_context(cafile=certificate)
data = bytes(range(250)) * 2000
handlers = set()

async def echo(reader, writer):
    handlers.add(asyncio.current_task())
    assert isinstance(reader, StreamReader) and isinstance(writer, StreamWriter)
    if writer.get_extra_info("sslcontext") is None:
        while not reader._buffer:
            await asyncio.sleep(0.001)
        await writer.start_tls(server_context)
    writer.write(await reader.readexactly(len(data)))
    await writer.drain()
    assert await reader.read() == b""
    writer.close()

async def exchange(upgrade):
    options = {"ssl": server_context} if not upgrade else {}
    server = await start_server(echo, "127.0.0.1", 0, **options)
    address = server.sockets[0].getsockname()
    if upgrade:
        reader, writer = await open_connection(*address)
        await writer.start_tls(client_context, server_hostname="localhost")
    else:
        reader, writer = await open_connection(
            *address, ssl=client_context, server_hostname="localhost"
        )
    assert writer.get_extra_info("ssl_object").version().startswith("TLS")
    writer.write(data)
    assert await reader.readexactly(len(data)) == data
    writer.close()
    await writer.wait_closed()
    await asyncio.gather(*handlers)
    server.close()
    await server.wait_closed()

async def cancel():
    # In each turn of the loop until the end of the handshake.
    loop = asyncio.get_running_loop()
    server = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0, ssl=server_context)
    turns = 0
    while True:
        connecting = asyncio.ensure_future(loop.create_connection(
            asyncio.Protocol, *server.sockets[0].getsockname(),
            ssl=client_context, server_hostname="localhost",
        ))
        for _ in range(turns):
            await asyncio.sleep(0)
        turns += 1
        if connecting.done():
            connecting.result()[0].close()
            break
        connecting.cancel()
        try:
            await connecting
        except asyncio.CancelledError:
            pass
        else:
            connecting.result()[0].close()
    assert turns > 2
    server.close()
    await server.wait_closed()

async def main():
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda loop, context: failures.append(context))
    await exchange(False)
    await exchange(True)
    await cancel()

failures = []
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always", RuntimeWarning)
    import noria.aio
    at_import = len(caught)
    from noria import StreamReader, StreamWriter, open_connection, start_server
    noria.run(main())
    import noria.aio.streams, noria.aio.tls
assert not failures, failures
print(at_import, len(caught), noria.aio.tls.TLSProtocol.__name__, StreamReader.__module__)
for warning in caught:
    print(warning.message)
"""


def run_tomorrow(*changes: str) -> list[str]:
    """Run an echo over TLS after the changes; return the lines that it printed."""
    program = "\n".join((LATER_PYTHON, *changes, f"certificate = {str(CERTIFICATE)!r}", ECHO))
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, timeout=50
    )
    assert (done.stderr, done.returncode) == ("", 0)
    return done.stdout.splitlines()


def test_a_newer_python_that_differs_in_nothing_is_served_in_silence() -> None:
    assert run_tomorrow("simulate_later_version()") == ["0 0 TLSProtocol noria.aio.stream_classes"]


TLS_CHANGES = [
    ("def _do_read(self):", "def _do_read(self, hint=None):"),
    ("def _do_read(self):", "def _do_read(self):\n        getattr(self, 'new_step', int)()"),
    ("_do_read", "_read_more"),
    ("_control_ssl_reading", "_control_reading"),
    ("_app_transport", "_application_transport"),
    ("_incoming", "_from_peer"),
    ("self._extra", "self._more"),
    ("SSLProtocolState", "TLSState"),
    ("WRAPPED", "OPEN"),
    ("ssl_shutdown_timeout", "ssl_close_timeout"),
]


@pytest.mark.parametrize("grown", [False, True], ids=["tested", "newer"])
@pytest.mark.parametrize(("old", "new"), TLS_CHANGES)
def test_tls_works_where_a_private_name_is_unknown(old: str, new: str, grown: bool) -> None:
    change = f"rewrite(asyncio.sslproto, {old!r}, {new!r})"
    first, *warned = run_tomorrow(change, "simulate_later_version()" if grown else "")
    assert first == f"{int(grown)} 1 PlainTLSProtocol noria.aio.stream_classes"
    assert len(warned) == 1
    assert "asyncio.sslproto" in warned[0]


STREAM_CHANGES = [
    ("_waiter", "_awaited"),
    ("_stream_reader_wr", "_reader_reference"),
    ("def connection_made(self, transport):", "def connection_made(self, transport, hint=None):"),
    ("        self._protocol = protocol\n", "        self._new = self._protocol = protocol\n"),
]


@pytest.mark.parametrize("grown", [False, True], ids=["tested", "newer"])
@pytest.mark.parametrize(("old", "new"), STREAM_CHANGES)
def test_streams_work_where_a_private_name_is_unknown(old: str, new: str, grown: bool) -> None:
    change = f"rewrite(asyncio.streams, {old!r}, {new!r})"
    first, *warned = run_tomorrow(change, "simulate_later_version()" if grown else "")
    assert first == f"{int(grown)} 1 TLSProtocol asyncio.streams"
    assert len(warned) == 1
    assert "asyncio.Stream" in warned[0]


def test_the_sentences() -> None:
    def sentences(*changes: str) -> str:
        program = (
            *changes,
            "simulate_later_version()",
            "warnings.simplefilter('always')",
            "import noria.aio",
        )
        done = subprocess.run(
            [sys.executable, "-c", "\n".join((LATER_PYTHON, *program))],
            capture_output=True, text=True, timeout=50,
        )  # fmt: skip
        first, _, rest = done.stderr.partition("\n")
        assert "RuntimeWarning" in first
        assert "RuntimeWarning" not in rest
        return first.partition("(up to Python ")[2]

    newest = ".".join(map(str, asyncio_names.NEWEST_TESTED))
    assert sentences(
        f"rewrite(asyncio.sslproto, {TLS_CHANGES[0][0]!r}, {TLS_CHANGES[0][1]!r})"
    ) == (
        f"{newest}): asyncio.sslproto.SSLProtocol._do_read(self, hint) takes other arguments on "
        "Python 3.99: noria expects (self)"
    )
    assert sentences("rewrite(asyncio.sslproto, '_do_write', '_write_more')") == (
        f"{newest}): asyncio.sslproto.SSLProtocol._do_read differs on Python 3.99 from the one "
        "that noria replaces: it uses _write_more; "
        "asyncio.sslproto.SSLProtocol._do_write does not exist on Python 3.99"
    )
    text = sentences("rewrite(asyncio.sslproto, '_transport._force_close', '_transport._end')")
    assert text == (
        f"{newest}): asyncio.sslproto.SSLProtocol uses _end on Python 3.99, perhaps of transports: "
        "noria's have no such attribute"
    )
    assert sentences("rewrite(asyncio.streams, '_waiter', '_awaited')") == (
        f"{newest}): asyncio.StreamReader objects have no _waiter on Python 3.99"
    )
