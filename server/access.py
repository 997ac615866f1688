"""Who may ask, and who may write: the Host header must be ours, the API key right."""

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

SEARCH_PATH = re.compile(r"/v1/indexes/[^/]*/search")

HOST = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^:]*)(:\d+)?")


class Access:
    """Turns requests away before any of their body is read."""

    def __init__(
        self,
        app: ASGIApp,
        host_names: frozenset[str] | None,
        key_sha256: str | None,
        write_key_sha256: str | None,
        writable: bool,
    ) -> None:
        """key_sha256: of the key that reads; the one that writes reads too. None lets everybody in."""
        self.app = app
        self.host_names = host_names
        self.key_sha256 = key_sha256
        self.write_key_sha256 = write_key_sha256
        self.writable = writable

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
        if path in PAGE_PATHS:
            return
        writes = is_write(scope["method"], path)
        reads, may_write = self._rights(headers.get("authorization", ""))
        if not (may_write if writes else reads or may_write):
            if writes and reads and self.key_sha256 is not None:
                raise Refusal(403, "this API key may only read.")
            raise Refusal(
                401,
                "the API key is missing or wrong; send it as `Authorization: Bearer KEY`.",
                headers={"WWW-Authenticate": "Bearer"},
            )
        if writes and not self.writable:
            raise Refusal(403, "this service only reads; start it with --writable.", code="read_only")

    def _rights(self, authorization: str) -> tuple[bool, bool]:
        """Return whether a header allows to read, and to write."""
        scheme, _, key = authorization.partition(" ")
        digest = hashlib.sha256(key.strip().encode("latin-1")).hexdigest() if scheme.lower() == "bearer" else ""
        # Both are compared always, so that a wrong key takes as long as a right one.
        rights = [
            wanted is None or hmac.compare_digest(digest, wanted) for wanted in (self.key_sha256, self.write_key_sha256)
        ]
        if self.write_key_sha256 is None:
            # Only a service without any key, on a loopback address, or one that does not write.
            rights[1] = rights[0]
        return rights[0], rights[1]


def is_write(method: str, path: str) -> bool:
    """Tell whether a request changes indexes or aliases; what is not known to only read counts as a write."""
    if not path.startswith(("/v1/indexes", "/v1/aliases")) or method in ("GET", "HEAD", "OPTIONS"):
        return False
    return not (method == "POST" and SEARCH_PATH.fullmatch(path))


def host_name(header: str) -> str:
    """Return the name in a Host header, without port and brackets, in lower case; empty when malformed."""
    found = HOST.fullmatch(header)
    return found[1].strip("[]").lower() if found else ""
