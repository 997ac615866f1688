"""Request bodies: bounded while they arrive, and strict JSON before anything else looks at them."""

import asyncio
import json
import re
import time
from collections.abc import Sequence
from typing import Any

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.errors import Refusal, refusal_response
from server.settings import Limits

MAX_NESTING = 64
BULK_PATH = re.compile(r"/v1/indexes/[^/]*/documents")
LINE_TYPES = ("application/x-ndjson", "application/jsonl", "application/jsonlines")
TOKENS = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[{]|[\]}]', re.DOTALL)


class BodyGuard:
    """Reads the whole body of a request, turns away what is not plain JSON, and passes the rest on."""

    def __init__(self, app: ASGIApp, limits: Limits) -> None:
        self.app = app
        self.limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] not in ("POST", "PUT", "PATCH"):
            await self.app(scope, receive, send)
            return
        try:
            headers = Headers(scope=scope)
            if scope["method"] == "POST" and BULK_PATH.fullmatch(scope["path"]):
                require_plain_json(headers, LINE_TYPES)
                self._require_small(headers.get("content-length", "0"), self.limits.bulk_bytes)
                scope["state"]["streamed"] = True
                await self.app(scope, self._bounded(receive), send)
                return
            require_plain_json(headers)
            self._require_small(headers.get("content-length", "0"), self.limits.body_bytes)
            body = await self._read(receive)
            if body is None:
                return
            check_json(body)
        except Refusal as refusal:
            await refusal_response(refusal, scope["state"]["request_id"])(scope, receive, send)
            return
        await self.app(scope, _replay(body, receive), send)

    def _require_small(self, length: str, most: int) -> None:
        if not length.isascii() or not length.isdigit() or int(length[:20]) > most:
            raise self._too_large(most)

    def _bounded(self, receive: Receive) -> Receive:
        """Return a channel for a body that is read piece by piece; reading too much, or too slowly, raises Refusal."""
        received = 0
        deadline = time.monotonic() + self.limits.bulk_seconds

        async def bounded() -> Message:
            nonlocal received
            message = await self._within(receive, min(self.limits.body_seconds, deadline - time.monotonic()))
            received += len(message.get("body", b""))
            if received > self.limits.bulk_bytes:
                raise self._too_large(self.limits.bulk_bytes)
            return message

        return bounded

    async def _within(self, receive: Receive, seconds: float) -> Message:
        try:
            async with asyncio.timeout(max(0.0, seconds)):
                return await receive()
        except TimeoutError:
            raise Refusal(
                408, "the rest of the body did not arrive in time.", headers={"Connection": "close"}
            ) from None

    def _too_large(self, most: int) -> Refusal:
        return Refusal(
            413,
            f"the body is larger than {most} bytes; send less at a time.",
            # The rest of the body is not read, so the connection cannot be used again.
            headers={"Connection": "close"},
        )

    async def _read(self, receive: Receive) -> bytes | None:
        """Return the body, or None when the client has left."""
        body = bytearray()
        try:
            async with asyncio.timeout(self.limits.body_seconds):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return None
                    body += message.get("body", b"")
                    if len(body) > self.limits.body_bytes:
                        raise self._too_large(self.limits.body_bytes)
                    if not message.get("more_body", False):
                        return bytes(body)
        except TimeoutError:
            raise Refusal(
                408,
                f"the body did not arrive within {self.limits.body_seconds:g} seconds.",
                headers={"Connection": "close"},
            ) from None


def _replay(body: bytes, receive: Receive) -> Receive:
    pending = [body]

    async def replayed() -> Message:
        if pending:
            return {"type": "http.request", "body": pending.pop(), "more_body": False}
        return await receive()

    return replayed


def require_plain_json(headers: Headers, kinds: Sequence[str] = ("application/json",)) -> None:
    """Refuse a content type other than those given, in UTF-8, and any content encoding."""
    kind, *parameters = (part.strip().lower() for part in headers.get("content-type", "").split(";"))
    charsets = [value.strip('"') for name, _, value in (p.partition("=") for p in parameters) if name == "charset"]
    if kind not in kinds or any(charset not in ("utf-8", "utf8") for charset in charsets):
        raise Refusal(415, f"send the body as JSON in UTF-8, with the header Content-Type: {kinds[0]}.")
    if headers.get("content-encoding", "identity").strip().lower() != "identity":
        # Nothing is ever unpacked, so no small body can become a large one.
        raise Refusal(415, "send the body without Content-Encoding.")


def check_json(body: bytes) -> Any:
    """Return the value; refuse what is not one JSON value in UTF-8, nests too deep or says two things at once."""
    if not body.strip():
        raise Refusal(400, "the body is empty; send a JSON object.")
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Refusal(400, f"the body is not UTF-8: byte {error.start} is 0x{body[error.start]:02x}.") from None
    _require_shallow(body)
    try:
        value = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise Refusal(400, f"the body is not JSON: {error.msg} at line {error.lineno}, column {error.colno}.") from None
    except ValueError as error:
        raise Refusal(400, f"the body is not JSON: {error}.") from None
    if b"\\u" in body:
        _require_encodable(value)
    return value


def _require_shallow(body: bytes) -> None:
    if body.count(b"[") + body.count(b"{") <= MAX_NESTING:
        return
    depth = 0
    for token in TOKENS.finditer(body):
        first = token[0][:1]
        if first in (b"[", b"{"):
            depth += 1
            if depth > MAX_NESTING:
                raise Refusal(400, f"the body nests deeper than {MAX_NESTING} levels.")
        elif first != b'"':
            depth -= 1


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the name {twice[:80]!r} stands twice in one object")
    return found


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def _require_encodable(value: Any) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        raise Refusal(400, "the body holds half of a surrogate pair, which is not a character.") from None
