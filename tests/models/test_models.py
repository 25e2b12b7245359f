"""noria.models: the table, which models work here, and making one."""

from __future__ import annotations

import pytest

import noria
from noria import models


def test_the_names() -> None:
    assert noria.MODELS == (
        "blocking",
        "threaded",
        "nonblocking",
        "select",
        "poll",
        "epoll",
        "epoll-edge",
        "io_uring",
    )
    assert set(models.PREFERENCE) <= set(noria.MODELS)


@pytest.mark.parametrize("name", noria.MODELS)
def test_the_table_is_complete(name: str) -> None:
    info = noria.info(name)
    assert info.name == name
    assert info.trigger in ("level", "edge", "completion", "none")
    assert tuple(info.capabilities) == models.CAPABILITIES
    assert set(info.capabilities.values()) <= {"native", "emulated", "none"}
    for words in (info.summary, info.waits, info.copies, info.learns, info.limit):
        assert words
    assert info.synchronous is (name != "io_uring"), "only there does the kernel copy by itself"


@pytest.mark.parametrize("name", noria.MODELS)
def test_available_means_that_it_can_be_made(name: str) -> None:
    works, reason = models.availability(name)
    assert works is not bool(reason)
    if works:
        model = models.make(name)
        assert model.name == name
        assert not model.closed
        model.close()
        model.close()
        assert model.closed
    else:
        with pytest.raises(noria.ModelUnavailable):
            models.make(name)


def test_auto_takes_what_choose_returns() -> None:
    name, reason = models.choose()
    assert name in models.PREFERENCE
    assert reason
    with noria.Reactor() as reactor:
        assert reactor.model == name


def test_a_list_is_an_order_of_preference() -> None:
    for names, first in (("poll,epoll", "poll"), ("select, poll", "select")):
        model = models.make(names)
        assert model.name == first
        model.close()
    with pytest.raises(noria.UnknownModel, match="pol"):
        models.make("pol,epoll")


@pytest.mark.parametrize("name", ["", "EPOLL", "kqueue", "uring"])
def test_unknown_names_list_the_known(name: str) -> None:
    for function in (noria.info, models.make, models.availability):
        with pytest.raises(noria.UnknownModel) as caught:
            function(name)
        assert isinstance(caught.value, ValueError)
        for known in noria.MODELS:
            assert known in str(caught.value)


@pytest.mark.parametrize(("interval", "works"), [(0, True), (0.5, True), (-1, False), (1e9, False)])
def test_the_interval_of_nonblocking(interval: float, works: bool) -> None:
    if not works:
        with pytest.raises(ValueError, match="interval must be 0 to 3600"):
            models.make("nonblocking", interval=interval)
        return
    model = models.make("nonblocking", interval=interval)
    assert model.interval == interval  # type: ignore[attr-defined]
    model.close()


def test_the_errors_are_what_they_say() -> None:
    for error, base in (
        (noria.UnknownModel, ValueError),
        (noria.ModelUnavailable, OSError),
        (noria.Unsupported, NotImplementedError),
        (noria.ModelLimit, OSError),
    ):
        assert issubclass(error, noria.NoriaError)
        assert issubclass(error, base)
