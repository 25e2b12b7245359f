"""Subinterpreters and free-threaded interpreters: noria works, or explains why it cannot."""

from __future__ import annotations

from support.running import run

IN_ANOTHER = """
import sys
try:
    import _interpreters as interpreters  # Python 3.13
except ImportError:
    import _xxsubinterpreters as interpreters

def failure(of):
    '''What running this in a new interpreter ends with.'''
    another = interpreters.create()
    try:
        found = interpreters.run_string(another, of)
        return getattr(found, "msg", None)
    except Exception as error:
        return str(error)
    finally:
        interpreters.destroy(another)
"""


def test_a_subinterpreter_is_refused_and_the_main_one_continues() -> None:
    """Compiled modules have per-process state, which a second interpreter would share."""
    found = run(
        IN_ANOTHER
        + """
import asyncio, noria
assert noria.run(asyncio.sleep(0, 7)) == 7
print(failure("import noria; noria.__version__"))
print(failure("import noria; noria.new_event_loop()"))
assert noria.run(asyncio.sleep(0, 8)) == 8
"""
    )
    works, refused = found.splitlines()
    assert works == "None"
    assert "interpreter" in refused, refused


def test_without_the_gil_it_is_refused() -> None:
    found = run(
        """
import sys
sys._is_gil_enabled = lambda: False
import noria
try:
    noria.new_event_loop()
except ImportError as error:
    print(error)
"""
    )
    assert "PYTHON_GIL=0" in found
