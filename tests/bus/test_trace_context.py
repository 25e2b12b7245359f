"""W3C trace context in events, with and without OpenTelemetry."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest

from noria.bus import trace_context
from noria.bus.event import Event

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.mark.parametrize("text", ["", "00-xyz", PARENT.upper(), PARENT[:-1], "0" + PARENT])
def test_what_is_no_traceparent_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no traceparent"):
        trace_context.set_current(text)


def test_an_event_keeps_the_context_it_was_made_with() -> None:
    event = Event("a", traceparent=PARENT)
    trace_context.inject(event.attributes)
    assert event.traceparent == PARENT


# A program with OpenTelemetry's API: without an SDK, then with a tracer that makes spans.
WITH_OPENTELEMETRY = """
import asyncio, itertools
from opentelemetry import trace
import noria
from noria.bus.event import Event
from noria.bus import trace_context

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

class Span(trace.NonRecordingSpan):
    def __init__(self, context):
        super().__init__(context)
        self.error = None
        self.ended = False
    def record_exception(self, error, *rest, **options):
        self.error = error
    def end(self, end_time=None):
        self.ended = True

spans = []
numbers = itertools.count(1)

class Tracer(trace.NoOpTracer):
    def start_span(self, name, context=None, kind=trace.SpanKind.INTERNAL, attributes=None, *rest):
        parent = trace.get_current_span(context).get_span_context()
        trace_id = parent.trace_id or next(numbers)
        flags = trace.TraceFlags(1)
        span = Span(trace.SpanContext(trace_id, next(numbers), False, flags))
        assert attributes["messaging.system"] == "memory"
        assert attributes["messaging.consumer.group.name"] == "g"
        spans.append((name, kind, attributes["messaging.message.id"], span))
        return span

class Provider(trace.TracerProvider):
    def get_tracer(self, *arguments, **options):
        return Tracer()

async def main():
    bus = noria.Bus("memory:", concurrency=1)
    found = []

    @bus.on("first", group="g", retries=1, backoff=0.01)
    async def first(event):
        current = trace.get_current_span().get_span_context()
        found.append((event.traceparent, trace_context.current(), current))
        if event.attempt == 1 and event.data.get("fail"):
            raise OSError("no")
        await bus.emit("second")

    done = asyncio.Event()

    @bus.on("second", group="g")
    async def second(event):
        found.append(event.traceparent)
        done.set()

    async with bus:
        trace_context.set_current(PARENT)
        await bus.emit("first")
        trace_context.set_current(None)
        await done.wait()
        # The API alone changes nothing.
        (carried, child, span), emitted = found
        assert carried == PARENT and emitted == child != PARENT, found
        assert not span.is_valid

        trace.set_tracer_provider(Provider())
        found.clear()
        done.clear()
        outer = trace.SpanContext(0xabc, 0xdef, True, trace.TraceFlags(1))
        with trace.use_span(trace.NonRecordingSpan(outer)):
            await bus.emit("first", fail=True)
        await done.wait()
    expected = f"00-{0xabc:032x}-{0xdef:016x}-01"
    (carried, _, one), (again, _, two), emitted = found
    assert carried == again == expected, found
    assert one.trace_id == two.trace_id == 0xabc
    assert one.span_id != two.span_id
    assert emitted == f"00-{0xabc:032x}-{two.span_id:016x}-01"
    names = [name for name, *_ in spans]
    assert names == ["process first", "process first", "process second"], names
    assert all(kind is trace.SpanKind.CONSUMER for _, kind, _, _ in spans)
    assert all(span.ended for *_, span in spans)
    assert [isinstance(span.error, OSError) for *_, span in spans] == [True, False, False]
    await no_parent()

async def no_parent():
    # Without a span around emit, the handler's span is a new trace: not of the bus's start.
    spans.clear()
    bus = noria.Bus("memory:")
    done = asyncio.Event()

    @bus.on("lone", group="g")
    async def lone(event):
        assert event.traceparent is None
        done.set()

    start = trace.SpanContext(0x123, 0x456, True, trace.TraceFlags(1))
    with trace.use_span(trace.NonRecordingSpan(start)):
        await bus.start()
    await bus.emit("lone")
    await done.wait()
    await bus.drain()
    ((name, _, _, span),) = spans
    assert name == "process lone"
    assert span.get_span_context().trace_id != 0x123
    assert span.ended

asyncio.run(main())
"""


@pytest.mark.skipif(
    importlib.util.find_spec("opentelemetry") is None, reason="opentelemetry-api is not installed"
)
def test_spans_of_opentelemetry_are_carried_by_events() -> None:
    command = [sys.executable, "-c", WITH_OPENTELEMETRY]
    done = subprocess.run(command, check=False, timeout=60, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
