"""bench/sampling: the part of a server that a sample of perf belongs to."""

from __future__ import annotations

from pathlib import Path

import httptools
import pytest
from sampling import parts
from sampling.parts import ASYNCIO, KERNEL, LOOP, OPENSSL, OTHER, PARSER, PYTHON, Profile
from sampling.perf import Frame, parse

import noria

LIBPYTHON = "/usr/lib/libpython3.13.so.1.0"
LIBC = "/usr/lib/x86_64-linux-gnu/libc.so.6"
CORE = f"{Path(noria.__file__).resolve().parent}/_core/stream.cpython-313-x86_64-linux-gnu.so"
HTTPTOOLS = f"{Path(httptools.__file__).resolve().parent}/parser/parser.cpython-313.so"
EVALUATION = Frame("_PyEval_EvalFrameDefault", LIBPYTHON)
ALLOCATION = Frame("PyBytes_FromStringAndSize", LIBPYTHON)
RECEIVED = Frame("Stream_received", CORE)
SEND = Frame("tcp_sendmsg", "[kernel.kallsyms]")
TASK = Frame("task_step", "/usr/lib/python3.13/lib-dynload/_asyncio.cpython-313.so")


@pytest.mark.parametrize(
    ("stack", "part"),
    [
        ([SEND, RECEIVED], KERNEL),
        ([Frame("ext4_read", "/lib/modules/6.1/kernel/fs/ext4.ko"), RECEIVED], KERNEL),
        ([RECEIVED, EVALUATION], LOOP),
        # What a part calls in CPython and in the C library belongs to it.
        ([ALLOCATION, RECEIVED, EVALUATION], LOOP),
        ([Frame("malloc", LIBC), ALLOCATION, EVALUATION, RECEIVED], PYTHON),
        ([Frame("__vdso_clock_gettime", "[vdso]"), Frame("clock_gettime", LIBC), RECEIVED], LOOP),
        ([Frame("__tls_get_addr", "/usr/lib/ld-linux-x86-64.so.2"), EVALUATION], PYTHON),
        ([EVALUATION, RECEIVED], PYTHON),
        ([ALLOCATION, Frame("_PyEval_EvalFrameDefault", "/usr/bin/python3.15")], PYTHON),
        ([Frame("_TAIL_CALL_CALL", "/usr/bin/python3.15")], PYTHON),
        ([ALLOCATION, TASK, RECEIVED], ASYNCIO),
        ([Frame("llhttp_execute", HTTPTOOLS), EVALUATION], PARSER),
        ([Frame("memcpy", LIBC), Frame("aes", "/usr/lib/libcrypto.so.3"), RECEIVED], OPENSSL),
        ([Frame("_ssl__SSLSocket_read", "/usr/lib/lib-dynload/_ssl.cpython-313.so")], OPENSSL),
        ([Frame("put", "/noria/bench/build/epoll_echo")], LOOP),
        ([Frame("validate", "/x/site-packages/pydantic_core/_core.so"), EVALUATION], OTHER),
        # A folder's name alone makes nothing a loop's: a project may be called noria.
        ([Frame("f", "/home/me/noria/site-packages/numpy/core.so"), EVALUATION], OTHER),
        ([ALLOCATION], OTHER),  # the stack could not be unwound
    ],
)
def test_a_sample_belongs_to_the_innermost_function_outside_the_run_time(
    stack: list[Frame], part: str
) -> None:
    assert parts.part_of(tuple(stack)) == part


@pytest.mark.parametrize(
    ("file", "package"),
    [
        ("/x/lib/python3.13/site-packages/uvicorn/protocols/http/httptools_impl.py", "uvicorn"),
        ("/x/lib/python3.13/asyncio/streams.py", "asyncio"),
        ("/x/lib/python3.13/_weakrefset.py", "_weakrefset"),
        ("/usr/lib/python3/dist-packages/starlette/routing.py", "starlette"),
        ("/home/me/noria/src/noria/aio/server.py", "noria"),
        ("/home/me/bench/peers/frameworks.py", "program"),
        ("<string>", "<string>"),
    ],
)
def test_package_of_a_python_file(file: str, package: str) -> None:
    assert parts.package_of(file) == package


OUTPUT = f"""
\tffffffff81 tcp_sendmsg ([kernel.kallsyms])
\tffffffff82 __x64_sys_sendto ([kernel.kallsyms])
\t    7f81 send ({LIBC})
\t    7f82 Stream_received ({CORE})


\t    7f83 dict_dealloc ({LIBPYTHON})
\t    7f84 _PyEval_EvalFrameDefault ({LIBPYTHON})
\t    7f85 py::Cycle.send:/x/site-packages/uvicorn/impl.py (/tmp/perf-7.map)

\t    7f86 [unknown] ([unknown])
"""


def test_output_of_perf_script() -> None:
    profile = Profile.of(parse(iter(OUTPUT.splitlines(keepends=True))))
    assert profile.samples == 3
    assert profile.parts == {KERNEL: 1, PYTHON: 1, OTHER: 1}
    assert profile.calls == {"sendto": 1}
    assert profile.places == {
        (KERNEL, "kernel"): 1,
        (PYTHON, "CPython"): 1,
        (OTHER, "own code"): 1,
    }
    assert profile.python == {("uvicorn", "Cycle.send"): 1}
    assert profile.functions[PYTHON, "dict_dealloc"] == 1


def test_no_samples() -> None:
    assert Profile.of(parse(iter([]))).samples == 0
