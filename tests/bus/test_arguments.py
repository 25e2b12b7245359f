"""Handlers' parameters: the event, and data checked against a type."""

from __future__ import annotations

import functools
import subprocess
import sys
from dataclasses import dataclass
from typing import Any, TypedDict

import pytest

from noria.bus.arguments import binder
from noria.bus.event import Event
from noria.bus.handler import is_async
from noria.errors import InvalidData

msgspec = pytest.importorskip("msgspec")


@dataclass
class Upload:
    name: str
    size: int = 0


class UploadDict(TypedDict):
    name: str


class UploadStruct(msgspec.Struct):  # type: ignore[misc,name-defined]
    name: str


class Callable_:
    async def __call__(self, event: Event) -> None:
        pass


EVENT = Event("upload.finished", {"name": "a.txt", "size": 3})


def plain(event): ...  # type: ignore[no-untyped-def]
def annotated(found: Event) -> None: ...
def anything(event: Any) -> None: ...
def with_default(event: Event, retry: bool = False) -> None: ...
def variadic(*arguments: Any) -> None: ...


@pytest.mark.parametrize(
    "handler",
    [
        *(plain, annotated, anything, with_default, variadic, Callable_(), print),
        functools.partial(lambda name, event: None, "name"),
    ],
)
def test_a_handler_of_the_event_needs_no_binding(handler: Any) -> None:
    assert binder(handler) is None


def test_data_is_converted() -> None:
    def of_dataclass(upload: Upload) -> None: ...
    def of_dict(upload: UploadDict) -> None: ...
    def of_struct(upload: UploadStruct) -> None: ...
    def both(upload: Upload, event: Event) -> None: ...
    def other_way(event, upload: Upload) -> None: ...  # type: ignore[no-untyped-def]

    def bound(handler: Any) -> tuple[Any, ...]:
        bind = binder(handler)
        assert bind is not None
        return bind(EVENT)

    assert bound(of_dataclass) == (Upload("a.txt", 3),)
    assert bound(of_dict) == ({"name": "a.txt"},)
    assert bound(of_struct) == (UploadStruct("a.txt"),)
    assert bound(both) == (Upload("a.txt", 3), EVENT)
    assert bound(other_way) == (EVENT, Upload("a.txt", 3))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({}, "missing required field `name`"),
        ({"name": 3}, r"Expected `str`, got `int` - at `\$.name`"),
        (None, "got `null`"),
        ([1], "got `array`"),
    ],
)
def test_data_that_does_not_fit_is_described(data: Any, message: str) -> None:
    def handler(upload: Upload) -> None: ...

    bind = binder(handler)
    assert bind is not None
    with pytest.raises(InvalidData, match=f"the data of a.b: .*{message}"):
        bind(Event("a.b", data))


def test_parameters_that_no_event_fits_are_refused() -> None:
    def none() -> None: ...
    def three(a: Event, b: Upload, c: Upload) -> None: ...
    def two_events(a: Event, b: Event) -> None: ...
    def two_data(a: Upload, b: Upload) -> None: ...
    def number(size: int) -> None: ...
    def keyword(event: Event, *, colour: str) -> None: ...

    for handler, message in (
        (none, "takes 0 arguments"),
        (three, "takes 3 arguments"),
        (two_events, "one is the event and one is annotated"),
        (two_data, "one is the event and one is annotated"),
        (number, "'size' is annotated with <class 'int'>"),
        (keyword, "'colour' needs a default"),
    ):
        with pytest.raises(TypeError, match=message):
            binder(handler)


def test_an_annotation_that_cannot_be_resolved_is_reported() -> None:
    def handler(upload: Missing) -> None: ...  # type: ignore[name-defined] # noqa: F821

    with pytest.raises(TypeError, match="cannot be resolved"):
        binder(handler)


def test_coroutine_functions_are_known() -> None:
    async def handler(event: Event) -> None: ...

    assert is_async(handler)
    assert is_async(functools.partial(handler))
    assert is_async(Callable_())
    assert not is_async(plain)


WITHOUT_MSGSPEC = """
import sys
sys.modules["msgspec"] = None
from dataclasses import dataclass
import noria
@dataclass
class Upload:
    name: str
def handler(upload: Upload): ...
try:
    noria.Bus("memory:").on("a", handler)
except ImportError as error:
    assert "pip install 'noria[bus]'" in str(error), error
else:
    raise SystemExit("no error")
"""


def test_missing_msgspec_is_explained() -> None:
    subprocess.run([sys.executable, "-c", WITHOUT_MSGSPEC], check=True, timeout=60)
