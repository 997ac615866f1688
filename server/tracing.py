"""Traces by OpenTelemetry (extra `otel`): one span a request, one a stage below it; W3C traceparent is honoured.

What is exported, and where to, the OTEL_* variables say, as in every OpenTelemetry service.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from starlette.datastructures import Headers
from starlette.types import Scope

from retriever.errors import BackendUnavailable

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

# Spans of one request; a batch of queries has many stages.
MOST_STAGES = 256


@dataclass(frozen=True, slots=True)
class Stage:
    """One part of a request's work, in nanoseconds since 1970."""

    name: str
    began: int
    ended: int
    attributes: Mapping[str, Any]


@dataclass(slots=True)
class Stages:
    """The parts of one request, noted whether anybody traces or not."""

    found: list[Stage] = field(default_factory=list)

    def add(self, name: str, began: int, milliseconds: float, **attributes: Any) -> int:
        """Note a part by its beginning and length; return when it ended."""
        ended = began + int(milliseconds * 1e6)
        if len(self.found) < MOST_STAGES:
            self.found.append(Stage(name, began, ended, attributes))
        return ended

    @contextmanager
    def timed(self, name: str, **attributes: Any) -> Iterator[None]:
        """Note what happens inside."""
        began, started = time.time_ns(), time.perf_counter()
        try:
            yield
        finally:
            self.add(name, began, (time.perf_counter() - started) * 1e3, **attributes)


class Tracing:
    """Makes spans of finished requests; nothing of it is in the way of an answer."""

    def __init__(self, provider: "TracerProvider") -> None:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._provider = provider
        self._tracer = provider.get_tracer("retriever.server")
        self._propagator = TraceContextTextMapPropagator()

    @contextmanager
    def request(self, scope: Scope, stages: Stages) -> "Iterator[_RequestSpan]":
        """Trace a request; the span is the child of the client's, when it sent one."""
        from opentelemetry.trace import SpanKind

        carrier = {name: value for name, value in Headers(scope=scope).items() if name in ("traceparent", "tracestate")}
        parent = self._propagator.extract(carrier)
        span = self._tracer.start_span(scope["method"], context=parent, kind=SpanKind.SERVER)
        traced = _RequestSpan(span, f"{span.get_span_context().trace_id:032x}")
        try:
            yield traced
        finally:
            self._end(span, stages)

    def _end(self, span: Any, stages: Stages) -> None:
        from opentelemetry.trace import set_span_in_context

        if span.is_recording():
            context = set_span_in_context(span)
            for stage in stages.found:
                attributes = dict(stage.attributes)
                part = self._tracer.start_span(
                    stage.name, context=context, start_time=stage.began, attributes=attributes
                )
                part.end(stage.ended)
        span.end()

    def close(self) -> None:
        """Send what waits to be sent."""
        self._provider.shutdown()


@dataclass(frozen=True, slots=True)
class _RequestSpan:
    span: Any
    trace_id: str

    def answered(self, method: str, route: str, status: int, request_id: str) -> None:
        """Say what became of the request. The path is not among it, as ids and names stand there."""
        from opentelemetry.trace import StatusCode

        self.span.update_name(f"{method} {route}")
        self.span.set_attributes(
            {
                "http.request.method": method,
                "http.route": route,
                "http.response.status_code": status,
                "retriever.request_id": request_id,
            }
        )
        if status >= 500:
            self.span.set_status(StatusCode.ERROR)


def start_tracing() -> Tracing:
    """Return what exports spans by OTLP over HTTP. Raises BackendUnavailable without the extra."""
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise BackendUnavailable(
            f"traces need OpenTelemetry ({error}); pip install 'retriever-engine[otel]', or unset RETRIEVER__OTEL."
        ) from error
    # The environment's OTEL_SERVICE_NAME goes before this name.
    provider = TracerProvider(resource=Resource({"service.name": "retriever"}).merge(Resource.create()))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return Tracing(provider)
