"""W3C trace context in events.

Source: https://www.w3.org/TR/trace-context/, and the CloudEvents extension for distributed tracing.
A handler runs in a child of its event's context, and the events that it emits carry that. If the
program uses OpenTelemetry (its API is imported), spans are its own; otherwise a context variable
passes the context on.
"""

from __future__ import annotations

import random
import re
import sys
from contextvars import Context, ContextVar
from typing import Any

from noria.bus.event import Event
from noria.errors import error_message

_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?")

# (traceparent, tracestate) of the running handler, or what the program has set.
_current: ContextVar[tuple[str, str | None] | None] = ContextVar("noria_trace", default=None)


def current() -> str | None:
    """Return the traceparent that events emitted here get, or None."""
    found = _current.get()
    return None if found is None else found[0]


def set_current(traceparent: str | None, tracestate: str | None = None) -> None:
    """Set the trace context of this task, as of an incoming HTTP request. None removes it.

    Raises ValueError for what is no traceparent.
    """
    if traceparent is None:
        _current.set(None)
    elif _TRACEPARENT.fullmatch(traceparent):
        _current.set((traceparent, tracestate))
    else:
        raise ValueError(f"{traceparent!r} is no traceparent: 00-TRACE_ID-PARENT_ID-FLAGS")


def inject(attributes: dict[str, Any]) -> None:
    """Put the current trace context into the attributes of an event."""
    if "opentelemetry.trace" in sys.modules and _inject_span(attributes):
        return
    found = _current.get()
    if found is not None and "traceparent" not in attributes:
        attributes["traceparent"] = found[0]
        if found[1]:
            attributes["tracestate"] = found[1]


def enter(event: Event, context: Context, system: str, group: str | None) -> Any:
    """Put the child of an event's trace context into `context`; return a span to end, or None.

    `system` is the broker's, "nats" or "redis", and `group` that of the handler, for the attributes
    of OpenTelemetry's span. An event without a trace context begins a trace there.
    """
    attributes = event.attributes
    traceparent = attributes.get("traceparent")
    match = _TRACEPARENT.fullmatch(traceparent) if type(traceparent) is str else None
    if match is not None:
        child = f"{match[1]}-{match[2]}-{random.getrandbits(64) or 1:016x}-{match[4]}"
        context.run(_current.set, (child, attributes.get("tracestate")))
    if "opentelemetry.trace" in sys.modules:
        return context.run(_start_span, event, system, group)
    return None


def leave(span: Any, error: BaseException | None) -> None:
    """End the span of a handler."""
    from opentelemetry.trace import StatusCode

    try:
        if error is not None:
            message = f"{type(error).__name__}: {error_message(error)}"
            span.set_attribute("error.type", type(error).__qualname__)
            span.set_status(StatusCode.ERROR, message)
            span.record_exception(error)
    finally:
        span.end()


def _inject_span(attributes: dict[str, Any]) -> bool:
    from opentelemetry import trace
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    if not trace.get_current_span().get_span_context().is_valid:
        return False
    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier)
    attributes.update(carrier)
    return True


def _start_span(event: Event, system: str, group: str | None) -> Any:
    """Start the span of a handler, of OpenTelemetry's conventions for messaging spans.

    Source: https://opentelemetry.io/docs/specs/semconv/messaging/messaging-spans/
    """
    from opentelemetry import context, trace
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier = {
        name: event.attributes[name]
        for name in ("traceparent", "tracestate")
        if isinstance(event.attributes.get(name), str)
    }
    # Not in the context in which the bus was started, which may have a span of its own.
    parent = TraceContextTextMapPropagator().extract(carrier, context.Context())
    tracer = trace.get_tracer("noria.bus")
    attributes = {
        "messaging.system": system,
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": event.type,
        "messaging.message.id": event.id,
        "cloudevents.event_source": event.source,
    }
    if group is not None:
        attributes["messaging.consumer.group.name"] = group
    span = tracer.start_span(
        f"process {event.type}",
        parent,
        trace.SpanKind.CONSUMER,
        attributes,
    )
    outer = trace.get_current_span(parent).get_span_context()
    if span.get_span_context().span_id == outer.span_id:
        # Without an SDK, the API gives the parent back: then the context variable does it.
        return None
    context.attach(trace.set_span_in_context(span, parent))
    return span
