"""Who may ask: the Host header must be ours, the API key right."""

import hashlib
import hmac
import re

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from server.errors import Refusal, refusal_response
from server.routes.page import FILES

HEALTH_PATHS = frozenset({"/livez", "/readyz"})
# The page's files hold no data; a browser cannot send a key before it has them.
PAGE_PATHS = frozenset(FILES)

HOST = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^:]*)(:\d+)?")


class Access:
    """Turns requests away before any of their body is read."""

    def __init__(self, app: ASGIApp, host_names: frozenset[str] | None, key_sha256: str | None) -> None:
        self.app = app
        self.host_names = host_names
        self.key_sha256 = key_sha256

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            try:
                self._check(scope)
            except Refusal as refusal:
                await refusal_response(refusal, scope["state"]["request_id"])(scope, receive, send)
                return
        await self.app(scope, receive, send)

    def _check(self, scope: Scope) -> None:
        path = scope["path"]
        if path in HEALTH_PATHS:
            return
        headers = Headers(scope=scope)
        if self.host_names is not None and host_name(headers.get("host", "")) not in self.host_names:
            raise Refusal(
                421,
                f"the Host header must be one of {', '.join(sorted(self.host_names))}; "
                "add names with RETRIEVER__ALLOWED_HOSTS.",
            )
        if self.key_sha256 is not None and path not in PAGE_PATHS:
            scheme, _, key = headers.get("authorization", "").partition(" ")
            digest = hashlib.sha256(key.strip().encode("latin-1")).hexdigest()
            # Compared always, so that a wrong scheme takes as long as a wrong key.
            right = hmac.compare_digest(digest, self.key_sha256)
            if scheme.lower() != "bearer" or not right:
                raise Refusal(
                    401,
                    "the API key is missing or wrong; send it as `Authorization: Bearer KEY`.",
                    headers={"WWW-Authenticate": "Bearer"},
                )


def host_name(header: str) -> str:
    """Return the name in a Host header, without port and brackets, in lower case; empty when malformed."""
    found = HOST.fullmatch(header)
    return found[1].strip("[]").lower() if found else ""
