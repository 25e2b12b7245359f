"""Error messages of importing or building noria on an unsupported system."""

from __future__ import annotations

import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from noria import models
from support.running import ROOT, environment, run

PACKAGE = ROOT / "src" / "noria"
FREE_THREADED_BUILD = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))


@pytest.mark.parametrize("system", ["darwin", "win32", "android"])
def test_another_system_is_named_at_import(system: str) -> None:
    found = run(
        """
import sys
system = sys.argv[1]
sys.platform = system
try:
    import noria
except ImportError as error:
    assert error.name == "noria"
    print(error)
""",
        system,
    )
    assert found.startswith("noria needs Linux"), found
    assert f"this is {system}" in found


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ("sys.implementation.name = 'pypy'", "this is pypy 3."),
        ("sys.version_info = (3, 10, 14, 'final', 0)", "this is cpython 3.10"),
    ],
    ids=["PyPy", "too old"],
)
def test_another_interpreter_is_named_at_import(change: str, found: str) -> None:
    message = run(
        f"""
import sys
{change}
try:
    import noria
except ImportError as error:
    assert error.name == "noria"
    print(error)
"""
    )
    assert message.startswith("noria needs CPython 3.11 or newer"), message
    assert found in message


# Imports a copy of the package whose compiled modules this Python cannot load.
WITHOUT_COMPILED_MODULES = """
import sys
sys.path.insert(0, sys.argv[1])
import noria
assert noria.__file__.startswith(sys.argv[1]), noria.__file__
assert noria.__version__
for name in ("Reactor", "EventLoop", "open", "run", "selector", "MODELS"):
    try:
        getattr(noria, name)
    except ImportError as error:
        assert error.__suppress_context__, "a chain of tracebacks hides the sentence"
        print(error)
"""


def copy_python_modules(folder: Path) -> None:
    """Copy the package without its compiled modules, as in an unbuilt source tree."""
    for source in sorted(PACKAGE.rglob("*.py")):
        copy = folder / "noria" / source.relative_to(PACKAGE)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(source.read_bytes())


@pytest.mark.parametrize(
    ("suffixes", "problem"),
    [
        ([], "noria's compiled modules are missing"),
        (["cpython-35m-x86_64-linux-gnu.so", "pyd"], "built for another Python (cpython-35m-x86"),
    ],
    ids=["not built", "for another Python"],
)
def test_missing_compiled_modules_are_explained(
    tmp_path: Path, suffixes: list[str], problem: str
) -> None:
    copy_python_modules(tmp_path)
    for suffix in suffixes:
        (tmp_path / "noria" / "_core" / f"contract.{suffix}").touch()
    lines = run(WITHOUT_COMPILED_MODULES, str(tmp_path)).splitlines()
    assert len(lines) == 6
    for line in lines:
        assert problem in line
        assert f"{sys.executable} -m pip install noria" in line


@pytest.mark.parametrize("command", ["models", "compare"])
def test_commands_without_compiled_modules_print_one_line(tmp_path: Path, command: str) -> None:
    copy_python_modules(tmp_path)
    done = subprocess.run(
        [sys.executable, "-P", "-m", "noria", command],
        cwd=tmp_path,
        env=environment(PYTHONPATH=str(tmp_path)),
        capture_output=True,
        text=True,
        timeout=45,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("noria: noria's compiled modules are missing")
    assert done.stderr.count("\n") == 1


def test_the_load_generator_without_compiled_modules_says_so(tmp_path: Path) -> None:
    copy_python_modules(tmp_path)
    found = run(
        """
import sys
sys.path.insert(0, sys.argv[1])
try:
    import noria.compare.loadgen.command
except ImportError as error:
    print(error)
""",
        str(tmp_path),
    )
    assert found.startswith("noria's compiled modules are missing")


def test_import_errors_inside_compiled_modules_are_not_replaced() -> None:
    """Only a missing compiled module is reported with that message."""
    found = run(
        """
import sys
sys.modules["noria._core.capabilities"] = None
try:
    import noria._core
except ImportError as error:
    print(error)
"""
    )
    assert "capabilities" in found
    assert "compiled modules" not in found


@pytest.mark.parametrize("name", ["Reactor", "EventLoop", "open", "selector"])
def test_without_the_gil_everything_compiled_refuses(name: str) -> None:
    """Applies to noria.open too, and to a second attempt."""
    found = run(
        """
import sys
sys._is_gil_enabled = lambda: False
import noria
for attempt in range(2):
    try:
        getattr(noria, sys.argv[1])
    except ImportError as error:
        print(error)
""",
        name,
    )
    assert [
        line.startswith("noria needs the global interpreter lock") for line in found.splitlines()
    ] == [True, True], found


IMPORT_UNDER_FREE_THREADING = """
import sys, warnings
import noria
assert sys._is_gil_enabled() == (sys.argv[1] == "held")
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    try:
        noria.open
        noria.EventLoop
    except ImportError as error:
        print(error)
print(sys._is_gil_enabled(), *(warning.message for warning in caught))
"""


@pytest.mark.skipif(not FREE_THREADED_BUILD, reason="this build of CPython always has its GIL")
@pytest.mark.parametrize(
    ("setting", "before", "found"),
    [
        ("", "not held", r"True The global interpreter lock \(GIL\) has been enabled .*noria.*"),
        ("1", "held", "True"),
        ("0", "not held", "noria needs the global interpreter lock .*PYTHON_GIL=0.*\nFalse"),
    ],
    ids=["default", "on", "off"],
)
def test_a_free_threaded_build_runs_noria_with_its_gil_or_not_at_all(
    setting: str, before: str, found: str
) -> None:
    """`import noria` does not enable the GIL; only its use does."""
    output = run(IMPORT_UNDER_FREE_THREADING, before, PYTHON_GIL=setting)
    assert re.fullmatch(found, output.strip()), output


def test_the_import_loads_little() -> None:
    """The checks do not make `import noria` load modules that the program does not use."""
    found = run(
        """
import sys
import importlib, typing
before = set(sys.modules)
import noria
print(*sorted(set(sys.modules) - before))
"""
    )
    assert found.split() == ["noria", "noria._version"]


# What noria.run of an empty coroutine imports beside the modules of asyncio.run.
LOADED_BY_RUN = """
    __future__ noria noria._version noria.errors noria.models
    noria._core noria._core.capabilities noria._core.contract noria._core.loop noria._core.stream
    noria._core.timers noria._core.transport
    noria._core.aio noria._core.aio.core noria._core.aio.descriptor noria._core.aio.scheduler
    noria._core.aio.scheduler_methods
    noria._core.models noria._core.models.epoll noria._core.models.readiness
    noria._core.models.wakeable
    noria.aio noria.aio.asyncio_base noria.aio.loop noria.aio.run
"""
LOADED_BY_IO_URING = """
    noria._core.models.io_uring noria._core.models.uring_requests noria._core.uring
    noria._core.uring.buffers noria._core.uring.ring
"""


@pytest.mark.parametrize("model", ["epoll", "io_uring"])
def test_running_a_coroutine_loads_no_more_than_it_needs(model: str) -> None:
    """Each module costs every program that starts: a new one has to be worth it."""
    if not models.availability(model)[0]:
        pytest.skip(f"{model} does not work here")
    found = run(
        """
import asyncio, importlib, sys, typing
async def main(): pass
asyncio.run(main())
before = set(sys.modules)
import noria
noria.run(main(), model=sys.argv[1])
print(*sorted(set(sys.modules) - before))
""",
        model,
    )
    allowed = {*LOADED_BY_RUN.split(), *(LOADED_BY_IO_URING.split() if model == "io_uring" else ())}
    # Cython's compiled modules share two that have no file.
    loaded = {name for name in found.split() if "cython" not in name}
    assert loaded <= allowed


# Building: setup.py must fail before it runs Cython, which takes a minute.


def build(*arguments: str, first: str = "", **more: str) -> tuple[int, str]:
    """Run `first`, then `setup.py` with `arguments`; return its status and errors."""
    source = f"""
import runpy, sys
sys.argv = ["setup.py", *sys.argv[1:]]
{first}
runpy.run_path("setup.py", run_name="__main__")
"""
    done = subprocess.run(
        [sys.executable, "-c", source, *arguments],
        cwd=ROOT,
        env=environment(**more),
        capture_output=True,
        text=True,
        timeout=45,
    )
    return done.returncode, done.stderr


@pytest.fixture
def builds() -> None:
    if not (ROOT / "setup.py").exists():
        pytest.skip("the tests are not in a source tree")
    pytest.importorskip("Cython")
    pytest.importorskip("setuptools", minversion="77")


@pytest.mark.usefixtures("builds")
def test_building_on_another_system_is_refused() -> None:
    status, errors = build("egg_info", first="sys.platform = 'darwin'")
    assert status == 1
    assert errors.splitlines()[-1].startswith("noria runs on CPython on Linux only"), errors
    assert "cpython on darwin" in errors
    assert "Traceback" not in errors


@pytest.mark.usefixtures("builds")
def test_building_without_a_compiler_is_refused(tmp_path: Path) -> None:
    status, errors = build("build_ext", "-b", str(tmp_path), "-t", str(tmp_path), CC="no-such-cc")
    assert status == 1
    assert "the C compiler 'no-such-cc' was not found" in errors
    assert "apt-get install gcc libc6-dev" in errors
    assert "Traceback" not in errors


@pytest.mark.usefixtures("builds")
@pytest.mark.parametrize(
    ("header", "package"),
    [("stdio.h", "libc6-dev"), ("Python.h", "python{}.{}-dev".format(*sys.version_info))],
)
def test_building_without_headers_is_refused(tmp_path: Path, header: str, package: str) -> None:
    compiler = tmp_path / "cc"
    compiler.write_text(
        f"#!/bin/sh\nif grep -q '{header}'; then echo '{header}: not here' >&2; exit 1; fi\n"
    )
    compiler.chmod(0o755)
    status, errors = build("build_ext", "-b", str(tmp_path), "-t", str(tmp_path), CC=str(compiler))
    assert status == 1
    assert f"{header}: not here" in errors
    assert f"apt-get install {package}" in errors
    assert "Traceback" not in errors
