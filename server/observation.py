"""What happens around every request: its id, its line in the access log, its numbers, its headers."""

import logging
import re
import secrets
import time

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.errors import error_response
from server.metrics import Metrics
from server.tracing import Stages, Tracing

access = logging.getLogger("server.access")
log = logging.getLogger("server.errors")

REQUEST_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
CLIENT_LEFT = 499

HEADERS = {
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class Observation:
    """Outermost: nothing that goes wrong further in leaves without an id, a log line and a JSON body."""

    def __init__(self, app: ASGIApp, metrics: Metrics, tracing: Tracing | None = None) -> None:
        self.app = app
        self.metrics = metrics
        self.tracing = tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        stages = Stages()
        if self.tracing is None:
            await self._observed(scope, receive, send, stages)
            return
        with self.tracing.request(scope, stages) as traced:
            status = await self._observed(scope, receive, send, stages, traced.trace_id)
            traced.answered(scope["method"], _route(scope), status, scope["state"]["request_id"])

    async def _observed(
        self, scope: Scope, receive: Receive, send: Send, stages: Stages, trace_id: str | None = None
    ) -> int:
        """Answer a request and return the status."""
        started = time.perf_counter()
        request_id = _request_id(Headers(scope=scope))
        notes: dict[str, object] = {} if trace_id is None else {"trace_id": trace_id}
        scope["state"] = {**scope.get("state", {}), "request_id": request_id, "notes": notes, "stages": stages}
        status = 0

        async def send_observed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-ID"] = request_id
                for name, value in HEADERS.items():
                    headers[name] = value
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        try:
            await self.app(scope, receive, send_observed)
        except Exception:
            log.exception("unexpected error", extra={"request_id": request_id, "path": scope["path"]})
            if status == 0:
                response = error_response(
                    500,
                    f"an unexpected error; the log has it under request id {request_id}.",
                    code="internal_error",
                    request_id=request_id,
                )
                await response(scope, receive, send_observed)
        finally:
            self._record(scope, status or CLIENT_LEFT, time.perf_counter() - started)
        return status or CLIENT_LEFT

    def _record(self, scope: Scope, status: int, seconds: float) -> None:
        route = _route(scope)
        self.metrics.requests.labels(route, str(status)).inc()
        self.metrics.request_seconds.labels(route).observe(seconds)
        client = scope.get("client")
        access.info(
            "request",
            extra={
                "request_id": scope["state"]["request_id"],
                "client": client[0] if client else None,
                "method": scope["method"],
                # Without the query string: people put keys there.
                "path": scope["path"],
                "status": status,
                "ms": round(seconds * 1e3, 2),
                **scope["state"]["notes"],
            },
        )


def _route(scope: Scope) -> str:
    # The template, never the path: anyone could fill the registry with paths.
    return getattr(scope.get("route"), "path", "unmatched")


def _request_id(headers: Headers) -> str:
    given = headers.get("x-request-id", "")
    return given if REQUEST_ID.fullmatch(given) else secrets.token_hex(8)
